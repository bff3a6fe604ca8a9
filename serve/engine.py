"""One step at a time from requests to events. Pure: knows no thread, clock, socket or llama.cpp.

Every accepted request ends in exactly one `Finished`. Whatever happens to one request (a bad row of
logits, no room, a failed batch) ends that request, not the engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from serve.decoder import BatchItem, Decoder, Logits
from serve.request import Event, Finished, FinishReason, GenerationRequest, TextDelta, Usage
from serve.sampling import Sampler, seed_sequence
from serve.scheduler import Chunk, Scheduler, Sequence
from serve.text import TextStream
from turbopilot.errors import (
    ContextLengthExceeded,
    DecoderFailed,
    InvalidRequest,
    NoKvSlot,
    TurboPilotError,
)

Emitted: TypeAlias = tuple[int, Event]


@dataclass(slots=True)
class _Generation:
    """A request under way."""

    request: GenerationRequest
    sequence: Sequence
    sampler: Sampler
    text: TextStream
    n_cached: int = 0

    @property
    def n_generated(self) -> int:
        return len(self.sequence.tokens) - len(self.request.prompt)

    @property
    def usage(self) -> Usage:
        return Usage(len(self.request.prompt), self.n_generated, self.n_cached)


class Engine:
    """Generates for many requests through one decoder.

    Args:
        decoder: the model; the engine's caller is its only user from now on.
        n_slots: requests that run at once; at most `decoder.n_seq`.
        random_seed: makes the sequence of default seeds repeatable; None is the system's entropy.
    """

    def __init__(
        self, decoder: Decoder, *, n_slots: int = 1, random_seed: int | None = None
    ) -> None:
        self._decoder = decoder
        self._scheduler = Scheduler(
            n_slots=min(n_slots, decoder.n_seq), n_ctx=decoder.n_ctx, n_batch=decoder.n_batch
        )
        self._generations: dict[int, _Generation] = {}
        entropy = None if random_seed is None else random_seed % 2**64
        self._seeds = np.random.SeedSequence(entropy)

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return self._scheduler.has_work

    def submit(self, request_id: int, request: GenerationRequest) -> list[Emitted]:
        """Accept a request. One that can never run ends at once, in the events returned."""
        sampling = request.sampling
        if sampling.seed is None:
            (seed,) = self._seeds.spawn(1)
        else:
            seed = seed_sequence(sampling.seed, sampling.stream)
        n_reserved = len(request.prompt) + request.max_tokens
        generation = _Generation(
            request=request,
            sequence=Sequence(request_id, list(request.prompt), n_reserved),
            sampler=Sampler(sampling, seed),
            text=TextStream(request.stop),
        )
        refusal = self._refusal(request, n_reserved)
        if refusal:
            return [(request_id, Finished("error", generation.usage, refusal))]
        if request.max_tokens <= 0:
            return [(request_id, Finished("length", generation.usage))]
        self._generations[request_id] = generation
        self._scheduler.add(generation.sequence)
        return []

    def _refusal(self, request: GenerationRequest, n_reserved: int) -> TurboPilotError | None:
        if n_reserved > self._decoder.n_ctx:
            return ContextLengthExceeded(
                f"the prompt ({len(request.prompt)} tokens) and max_tokens ({request.max_tokens}) do not "
                f"fit into the context of {self._decoder.n_ctx} tokens"
            )
        if not request.prompt:
            return InvalidRequest("the prompt has no tokens", param="prompt")
        if not all(0 <= t < self._decoder.n_vocab for t in request.prompt):
            return InvalidRequest("the prompt holds ids outside the vocabulary", param="prompt")
        return None

    def cancel(self, request_id: int) -> list[Emitted]:
        """End a request that nobody waits for any more; nothing where it has ended already."""
        generation = self._generations.get(request_id)
        return self._end(generation, "cancelled") if generation else []

    def fail_all(self, error: TurboPilotError | None = None) -> list[Emitted]:
        """End every request: with the error, or as cancelled where there is none."""
        reason: FinishReason = "error" if error else "cancelled"
        return [e for g in tuple(self._generations.values()) for e in self._end(g, reason, error)]

    def step(self) -> list[Emitted]:
        """Compute one batch and return what became certain by it."""
        for admission in self._scheduler.admit():
            for slot in admission.evict:
                self._decoder.remove(slot, 0)
            self._prepare(self._generations[admission.sequence.id])
        chunks = self._scheduler.plan()
        if not chunks:
            return []
        batch = [
            BatchItem(c.sequence.tokens[i], i, c.sequence.slot, c.is_last and i == c.stop - 1)
            for c in chunks
            for i in range(c.start, c.stop)
        ]
        try:
            rows = self._decoder.decode(batch)
        except NoKvSlot as e:
            return self._make_room(chunks, e)
        except DecoderFailed as e:
            return self._lose(chunks, e)
        for c in chunks:
            c.sequence.n_past = c.stop
        due = [self._generations[c.sequence.id] for c in chunks if c.is_last]
        return [event for g, row in zip(due, rows, strict=True) for event in self._advance(g, row)]

    def _prepare(self, generation: _Generation) -> None:
        """Trim the slot to the part of its cache that the new sequence shares."""
        s = generation.sequence
        if not self._decoder.remove(s.slot, s.n_past):
            self._decoder.remove(s.slot, 0)  # a recurrent state cannot be cut: begin anew
            s.n_past = 0
        generation.n_cached = s.n_past

    def _advance(self, g: _Generation, logits: Logits) -> list[Emitted]:
        """Choose a sequence's next token and tell what it makes certain."""
        try:
            token = g.sampler.pick(logits, g.sequence.tokens)
        except DecoderFailed as e:
            return self._end(g, "error", e)
        if self._decoder.is_eog(token):
            return self._end(g, "stop", last_text=g.text.finish())
        g.sequence.tokens.append(token)
        text = g.text.feed(self._decoder.piece(token))
        if g.text.stopped:
            return self._end(g, "stop", last_text=text)
        if g.n_generated >= g.request.max_tokens:
            return self._end(g, "length", last_text=text + g.text.finish())
        return [(g.sequence.id, TextDelta(text))] if text else []

    def _end(
        self,
        g: _Generation,
        reason: FinishReason,
        error: TurboPilotError | None = None,
        *,
        last_text: str = "",
    ) -> list[Emitted]:
        del self._generations[g.sequence.id]
        self._scheduler.remove(g.sequence)
        events: list[Emitted] = [(g.sequence.id, TextDelta(last_text))] if last_text else []
        return [*events, (g.sequence.id, Finished(reason, g.usage, error))]

    def _make_room(self, chunks: list[Chunk], error: NoKvSlot) -> list[Emitted]:
        """No cell was free: give up idle caches and try again in the next step, else the newest request."""
        idle = self._scheduler.idle_slots()
        for slot in idle:
            self._clear(slot)
        return [] if idle else self._lose(chunks[-1:], error)

    def _lose(self, chunks: Iterable[Chunk], error: TurboPilotError) -> list[Emitted]:
        """End the sequences of a failed batch; what the KV cache holds of them is not to be trusted."""
        events = []
        for c in chunks:
            slot = c.sequence.slot
            events += self._end(self._generations[c.sequence.id], "error", error)
            self._clear(slot)
        return events

    def _clear(self, slot: int) -> None:
        self._decoder.remove(slot, 0)
        self._scheduler.forget(slot)

    def check_integrity(self) -> None:
        """Raise AssertionError where the books do not balance; for tests and when idle."""
        self._scheduler.check_integrity()
        if not self.has_work:
            assert not self._generations, "a request was lost"
