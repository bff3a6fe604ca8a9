"""Handling of decoder failures: finding the request that caused one, and continuing the others."""

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
    """Ends the request that caused a failure, if it is known, and continues the others."""

    def __init__(
        self, decoder: Decoder, slots: Slots, requests: Requests, metrics: EngineMetrics
    ) -> None:
        self._decoder, self._slots = decoder, slots
        self._requests, self._metrics = requests, metrics

    def make_room(self, step: list[Sequence], error: NoKvSlot) -> list[Emitted]:
        """Clear the idle slots after a step found no free cells; if there are none, end the step's last request."""
        idle = self._slots.idle()
        for slot in idle:
            self._decoder.remove(slot, 0)
            self._slots.forget(slot)
        return [] if idle else self.lose(step[-1], error)

    def lose(self, s: Sequence, error: TurboPilotError) -> list[Emitted]:
        """End a request with an error, and clear its slot, whose part of the KV cache may be wrong."""
        slot = s.slot
        events = self._requests.end(s, "error", error)
        self._decoder.remove(slot, 0)
        self._slots.forget(slot)
        return events

    def survive(self, step: list[Sequence], error: TurboPilotError) -> list[Emitted]:
        """Continue after a failed batch: end its only sequence, or retry several sequences one by one.

        Raises:
            ServeError: llama.cpp cannot create a new context.
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
        """Create a new KV cache; running sequences compute their tokens again."""
        self._metrics.rebuilds += 1
        self._decoder.rebuild()
        for slot in self._slots.free():
            self._slots.forget(slot)
        for s in self._slots.running:
            self._slots.reset(s)
