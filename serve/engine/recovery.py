"""Handling of a decoder's failures: which request is at fault, and how the others go on."""

from __future__ import annotations

import logging

from serve.decoder import Decoder
from serve.engine.requests import Emitted, Requests
from serve.engine.sequence import Sequence
from serve.engine.slots import Slots
from serve.metrics import EngineMetrics
from turbopilot.base.errors import DecodeAborted, DecoderFailed, NoKvSlot, TurboPilotError

log = logging.getLogger("turbopilot.engine")


class Recovery:
    """Ends the request at fault, if it is known, and lets the others go on."""

    def __init__(
        self, decoder: Decoder, slots: Slots, requests: Requests, metrics: EngineMetrics
    ) -> None:
        self._decoder, self._slots = decoder, slots
        self._requests, self._metrics = requests, metrics

    def make_room(self, step: list[Sequence], error: NoKvSlot) -> list[Emitted]:
        """After a step found no free cell, empty the idle slots for the next one, or end the step's last request."""
        idle = self._slots.idle()
        for slot in idle:
            self._decoder.remove(slot, 0)
            self._slots.forget(slot)
        return [] if idle else self.lose(step[-1], error)

    def lose(self, s: Sequence, error: TurboPilotError) -> list[Emitted]:
        """End a request whose part of the KV cache is not to be trusted any more."""
        slot = s.slot
        events = self._requests.end(s, "error", error)
        self._decoder.remove(slot, 0)
        self._slots.forget(slot)
        return events

    def survive(self, step: list[Sequence], error: TurboPilotError) -> list[Emitted]:
        """After a batch failed, end the sequence that was alone in it, or try several again one by one.

        Raises:
            ServeError: llama.cpp cannot make a new context.
        """
        self._metrics.failures += 1
        log.warning("a batch of %d sequences failed: %s", len(step), error)
        events: list[Emitted] = []
        suspects = list(step)
        if len(suspects) == 1:
            events = self.lose(suspects.pop(), error)
        if isinstance(error, DecoderFailed):
            self.rebuild()
        elif isinstance(error, DecodeAborted):
            for s in suspects:
                self._decoder.remove(s.slot, 0)
                self._slots.reset(s)
        for s in self._slots.running:
            s.is_suspect = s in suspects
        return events

    def rebuild(self) -> None:
        """Make a new KV cache; running sequences compute their tokens again."""
        self._metrics.rebuilds += 1
        self._decoder.rebuild()
        for slot in self._slots.free():
            self._slots.forget(slot)
        for s in self._slots.running:
            self._slots.reset(s)
