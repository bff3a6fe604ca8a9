"""What is done when the decoder fails: who is at fault, who goes on, and with what."""

from __future__ import annotations

import logging

from serve.decoder import Decoder
from serve.engine.planner import Chunk
from serve.engine.requests import Emitted, Requests
from serve.engine.sequence import Sequence
from serve.engine.slots import Slots
from serve.metrics import EngineMetrics
from turbopilot.base.errors import DecodeAborted, DecoderFailed, NoKvSlot, TurboPilotError

log = logging.getLogger("turbopilot.engine")


class Recovery:
    """Ends the request at fault, if one can be named, and lets the others go on.

    Args:
        decoder: its KV cache may have to be made anew.
        slots: who runs where.
        requests: ends them.
        metrics: counts failures.
    """

    def __init__(
        self, decoder: Decoder, slots: Slots, requests: Requests, metrics: EngineMetrics
    ) -> None:
        self._decoder, self._slots = decoder, slots
        self._requests, self._metrics = requests, metrics

    def make_room(self, chunks: list[Chunk], error: NoKvSlot) -> list[Emitted]:
        """No cell was free: give up idle tokens and try again in the next step, or end the newest request."""
        idle = self._slots.idle()
        for slot in idle:
            self._decoder.remove(slot, 0)
            self._slots.forget(slot)
        return [] if idle else self.lose(chunks[-1].sequence, error)

    def lose(self, s: Sequence, error: TurboPilotError) -> list[Emitted]:
        """End a request whose part of the KV cache is not to be trusted."""
        slot = s.slot
        events = self._requests.end(s, "error", error)
        self._decoder.remove(slot, 0)
        self._slots.forget(slot)
        return events

    def survive(self, chunks: list[Chunk], error: TurboPilotError) -> list[Emitted]:
        """A batch failed. Who was alone in it is at fault and ends; several are tried again, one by one.

        Raises:
            ServeError: llama.cpp cannot make a new context.
        """
        self._metrics.failures += 1
        log.warning("a batch of %d sequences failed: %s", len(chunks), error)
        events: list[Emitted] = []
        suspects = [c.sequence for c in chunks]
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
        """Make the KV cache anew; what runs computes its tokens again."""
        self._metrics.rebuilds += 1
        self._decoder.rebuild()
        for slot in self._slots.free():
            self._slots.forget(slot)
        for s in self._slots.running:
            self._slots.reset(s)
