"""What is done when the decoder fails: who is at fault, who goes on, and with what. Pure."""

from __future__ import annotations

import logging

from serve.decoder import Decoder
from serve.engine.generation import Generation
from serve.engine.planner import Chunk
from serve.engine.requests import Emitted, Requests
from serve.engine.scheduler import Scheduler
from serve.engine.sequence import Sequence
from serve.metrics import EngineMetrics
from turbopilot.base.errors import DecodeAborted, DecoderFailed, NoKvSlot, TurboPilotError

log = logging.getLogger("turbopilot.engine")


class Recovery:
    """Ends the request at fault, where one can be named, and lets the others go on.

    Args:
        decoder: whose KV cache may have to be made anew.
        scheduler: who runs where.
        requests: what they are.
        metrics: where failures are counted.
    """

    def __init__(
        self, decoder: Decoder, scheduler: Scheduler, requests: Requests, metrics: EngineMetrics
    ) -> None:
        self._decoder, self._scheduler = decoder, scheduler
        self._requests, self._metrics = requests, metrics
        self._suspects: list[Sequence] = []

    def suspect(self) -> Sequence | None:
        """Who took part in a batch that failed, and is to be computed alone; None where nobody is left."""
        self._suspects = [s for s in self._suspects if s.id in self._requests]
        return self._suspects[0] if self._suspects else None

    def acquit(self, sequence: Sequence) -> None:
        """Its tokens could be computed."""
        if sequence in self._suspects:
            self._suspects.remove(sequence)

    def make_room(self, chunks: list[Chunk], error: NoKvSlot) -> list[Emitted]:
        """No cell was free: give up idle tokens and try again in the next step, else the newest request."""
        idle = self._scheduler.slots.idle()
        for slot in idle:
            self._decoder.remove(slot, 0)
            self._scheduler.slots.forget(slot)
        return [] if idle else self.lose(self._requests[chunks[-1].sequence.id], error)

    def lose(self, g: Generation, error: TurboPilotError) -> list[Emitted]:
        """End a request whose part of the KV cache is not to be trusted."""
        slot = g.sequence.slot
        events = self._requests.end(g, "error", error)
        self._decoder.remove(slot, 0)
        self._scheduler.slots.forget(slot)
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
            events = self.lose(self._requests[suspects.pop().id], error)
        if isinstance(error, DecoderFailed):
            self.rebuild()
        elif isinstance(error, DecodeAborted):
            for s in suspects:
                self._decoder.remove(s.slot, 0)
                self._scheduler.slots.reset(s)
        self._suspects = suspects
        return events

    def rebuild(self) -> None:
        """Make the KV cache anew; what runs computes its tokens again."""
        self._metrics.rebuilds += 1
        self._decoder.rebuild()
        for slot in self._scheduler.slots.free():
            self._scheduler.slots.forget(slot)
        for s in self._scheduler.running:
            self._scheduler.slots.reset(s)
