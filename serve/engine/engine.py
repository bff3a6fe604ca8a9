"""One step at a time from requests to events. Pure: knows no thread, socket or llama.cpp; the clock is handed in.

Every accepted request ends in exactly one `Finished`. Whatever happens to one request (a bad row of logits, no
room, a batch that fails because of it) ends that request, not the engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np

from serve.decoder import BatchItem, Decoder, Logits
from serve.drafting import Drafter
from serve.engine.generation import Generation
from serve.engine.known import KnownTokens
from serve.engine.options import EngineOptions
from serve.engine.pace import Pace
from serve.engine.prefix_store import PrefixStore
from serve.engine.scheduler import WORTH_KEEPING, Admission, Chunk, Scheduler
from serve.engine.sequence import Sequence
from serve.metrics import EngineMetrics
from serve.request import Event, Finished, FinishReason, GenerationRequest, TextDelta, Usage
from serve.sampling import Sampler, seed_sequence
from serve.text import TextStream
from turbopilot.errors import (
    BadBatch,
    ContextLengthExceeded,
    DeadlineExceeded,
    DecodeAborted,
    DecoderFailed,
    InvalidRequest,
    NoKvSlot,
    TurboPilotError,
)

log = logging.getLogger("turbopilot.engine")

Emitted: TypeAlias = tuple[int, Event]


class Engine:
    """Generates for many requests through one decoder.

    Args:
        decoder: the model; the engine's caller is its only user from now on.
        options: how it is set up.
        clock: seconds, from any start; it may jump.
    """

    def __init__(
        self,
        decoder: Decoder,
        options: EngineOptions = EngineOptions(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decoder, self._options, self._clock = decoder, options, clock
        self._store = (
            PrefixStore(options.prefix_cache_bytes, decoder.identity, options.prefix_folder)
            if options.prefix_cache_bytes
            else None
        )
        self._scheduler = Scheduler(
            n_slots=min(options.n_slots, decoder.n_seq),
            n_ctx=decoder.n_ctx,
            n_cells=decoder.n_cells,
            n_batch=decoder.n_batch,
            n_outputs=decoder.n_outputs,
            can_cut=decoder.can_cut,
            store=self._store,
        )
        self._generations: dict[int, Generation] = {}
        self._named: dict[str, int] = {}
        self._queued: set[int] = set()  # those that the scheduler has
        self._suspects: list[Sequence] = []
        self._known = KnownTokens()
        self._pace = Pace()
        self._drafter = Drafter(decoder) if options.drafts and decoder.can_cut else None
        entropy = None if options.random_seed is None else options.random_seed % 2**64
        self._seeds = np.random.SeedSequence(entropy)
        self.metrics = EngineMetrics(n_cells=decoder.n_cells)

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return self._scheduler.has_work

    def submit(self, request_id: int, request: GenerationRequest) -> list[Emitted]:
        """Accept a request. One that can never run, or whose answer is known, ends at once in the events returned."""
        events = self._supersede(request.supersedes)
        try:
            self._check(request)
            generation = self._begin(request_id, request)
        except TurboPilotError as e:
            self.metrics.finish("error")
            return [*events, (request_id, Finished("error", Usage(len(request.prompt), 0), e))]
        if request.supersedes:
            self._named[request.supersedes] = request_id
        self._generations[request_id] = generation
        events += self._replay(generation)
        if request_id in self._generations:
            self._queued.add(request_id)
            self._scheduler.add(generation.sequence)
        self._count()
        return events

    def _begin(self, request_id: int, request: GenerationRequest) -> Generation:
        sampling = request.sampling
        if sampling.seed is None:
            (seed,) = self._seeds.spawn(1)
        else:
            seed = seed_sequence(sampling.seed, sampling.stream)
        constraint = self._decoder.constraint(sampling.grammar) if sampling.grammar else None
        warms = request.max_tokens == 0
        n_reserved = len(request.prompt) + request.max_tokens
        return Generation(
            request=request,
            sequence=Sequence(request_id, list(request.prompt), n_reserved, idles=warms),
            sampler=Sampler(sampling, seed, constraint=constraint, vocab=self._decoder),
            text=TextStream(request.stop),
            draft=(
                self._drafter.begin(request.prompt, request.context)
                if self._drafter and not warms
                else None
            ),
            submitted=self._clock(),
        )

    def _supersede(self, name: str) -> list[Emitted]:
        """End the request that had the name."""
        earlier = self._generations.get(self._named.get(name, -1)) if name else None
        return self._end(earlier, "cancelled", how="superseded") if earlier else []

    def _check(self, request: GenerationRequest) -> None:
        """Raise where it can never run."""
        n_reserved = len(request.prompt) + request.max_tokens
        if n_reserved > self._decoder.n_ctx:
            raise ContextLengthExceeded(
                f"the prompt ({len(request.prompt)} tokens) and max_tokens ({request.max_tokens}) do not "
                f"fit into the context of {self._decoder.n_ctx} tokens"
            )
        if not request.prompt:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        if not all(0 <= t < self._decoder.n_vocab for t in request.prompt):
            raise InvalidRequest("the prompt holds ids outside the vocabulary", param="prompt")

    def _replay(self, g: Generation) -> list[Emitted]:
        """Take the tokens that are known to follow; perhaps they are all that is wanted."""
        events: list[Emitted] = []
        if g.only_warms or not g.follows_from_tokens:
            return events
        while (token := self._known.next(g.name, len(g.sequence.tokens))) is not None:
            taken = g.take(token, None, self._decoder, g.submitted)
            if taken.delta:
                events.append((g.sequence.id, taken.delta))
            if taken.ended:
                events += self._end(g, taken.ended)
                break
        self.metrics.known_tokens += g.n_generated
        self._time(g, g.n_generated, None, g.submitted)
        return events

    def cancel(self, request_id: int) -> list[Emitted]:
        """End a request that nobody waits for any more; nothing where it has ended already."""
        generation = self._generations.get(request_id)
        return self._end(generation, "cancelled") if generation else []

    def fail_all(self, error: TurboPilotError | None = None) -> list[Emitted]:
        """End every request: with the error, or as cancelled where there is none."""
        reason: FinishReason = "error" if error else "cancelled"
        return [e for g in tuple(self._generations.values()) for e in self._end(g, reason, error)]

    def reset(self, error: TurboPilotError) -> list[Emitted]:
        """After an exception that nobody expected: end everything, and begin with an empty KV cache.

        Raises:
            ServeError: llama.cpp cannot make a new one.
        """
        events = self.fail_all(error)
        self._rebuild()
        return events

    def close(self) -> None:
        """Keep what is computed for the next start, where it is wished."""
        if not self._store:
            return
        for slot in self._scheduler.slots.idle():
            cached = self._scheduler.slots.all[slot].cached
            if len(cached) >= WORTH_KEEPING and not self._store.covers(cached):
                self._store.put(cached, self._decoder.save(slot))
        self._store.close()

    def step(self) -> list[Emitted]:
        """Compute one batch and return what became certain by it."""
        events = self._expire()
        for admission in self._scheduler.admit():
            self._prepare(admission)
        chunks = self._plan()
        if chunks:
            events += self._compute(chunks)
        self._count()
        return events

    def _expire(self) -> list[Emitted]:
        """End the requests whose time is over."""
        now = self._clock()
        events: list[Emitted] = []
        for g in [g for g in self._generations.values() if g.is_late(now)]:
            if g.n_generated:
                events += self._end(g, "length", last_text=g.text.finish(), how="deadline")
            else:
                error = DeadlineExceeded(
                    f"nothing could be generated within {g.request.deadline:g} s",
                    hint="the server is busy: try again, or allow more time",
                )
                events += self._end(g, "error", error, how="deadline")
        return events

    def _prepare(self, admission: Admission) -> None:
        """Bring the beginning that the sequence shares with something computed into its slot."""
        s, decoder = admission.sequence, self._decoder
        g = self._generations[s.id]
        for slot, tokens in admission.save:
            if self._store:
                self._store.put(tokens, decoder.save(slot))
        for slot in admission.clear:
            decoder.remove(slot, 0)
        done = True
        if admission.stored is not None and self._store:
            state = self._store.get(admission.stored)
            done = bool(state) and decoder.restore(s.slot, state or b"")
            if not done:
                self._store.drop(admission.stored)
        elif admission.source not in (None, s.slot):
            done = decoder.copy(admission.source, s.slot, s.n_past)  # type: ignore[arg-type]
        if not (done and decoder.remove(s.slot, s.n_past)):
            decoder.remove(s.slot, 0)  # a recurrent state cannot be cut: begin anew
            self._scheduler.slots.reset(s)
        elif admission.stored is not None:
            self.metrics.restored_tokens += s.n_past
        g.n_cached = min(s.n_past, len(g.request.prompt))
        self.metrics.queue_seconds.observe(max(0.0, self._clock() - g.submitted))
        self.metrics.prompt_tokens += len(g.request.prompt)
        self.metrics.cached_tokens += g.n_cached

    def _plan(self) -> list[Chunk]:
        """The next batch. After a failure, those that took part are tried one by one, to find the one at fault."""
        self._suspects = [s for s in self._suspects if s.id in self._generations]
        if self._suspects:
            return self._scheduler.plan_alone(self._suspects[0])
        self._guess()
        return self._scheduler.plan(self._pace.prompt_budget(self._decoder.n_batch))

    def _guess(self) -> None:
        """Give each sequence that generates the guesses that it may have."""
        for s in self._scheduler.running:
            s.draft = []
            g = self._generations[s.id]
            left = g.request.max_tokens - g.n_generated - 1
            if g.draft and s.generates and left > 0:
                s.draft = g.draft.guess(left, self._pace.guess_cost)

    def _compute(self, chunks: list[Chunk]) -> list[Emitted]:
        batch = self._items(chunks)
        began = self._clock()
        try:
            rows = self._decoder.decode(batch)
        except NoKvSlot as e:
            return self._make_room(chunks, e)
        except (DecodeAborted, BadBatch, DecoderFailed) as e:
            return self._survive(chunks, e)
        now = self._clock()
        self._pace.observe(len(batch), now - began)
        m = self.metrics
        m.steps += 1
        m.batch_tokens += len(batch)
        m.batch_sequences += len(chunks)
        m.decode_seconds += max(0.0, now - began)
        events: list[Emitted] = []
        row = 0
        for c in chunks:
            g = self._generations[c.sequence.id]
            c.sequence.n_past = c.stop
            if not c.is_last:
                self._scheduler.slots.grown(c.sequence)
            elif g.only_warms:
                self._scheduler.slots.grown(c.sequence)
                events += self._end(g, "length")
            else:
                n = 1 + c.n_draft
                events += self._advance(g, c, rows[row : row + n], now)
                row += n
            if c.is_last and c.sequence in self._suspects:
                self._suspects.remove(c.sequence)
        return events

    def _items(self, chunks: list[Chunk]) -> list[BatchItem]:
        """The batch's tokens; logits are wanted wherever a next token is to be chosen."""
        items = []
        for c in chunks:
            s = c.sequence
            wants = c.is_last and not self._generations[s.id].only_warms
            last = c.stop - 1
            items += [
                BatchItem(s.tokens[i], i, s.slot, wants and i == last)
                for i in range(c.start, c.stop)
            ]
            items += [
                BatchItem(t, c.stop + i, s.slot, True) for i, t in enumerate(s.draft[: c.n_draft])
            ]
        return items

    def _advance(self, g: Generation, c: Chunk, rows: Logits, now: float) -> list[Emitted]:
        """Choose a sequence's next tokens: one, and one more for each guess that turns out right.

        Each is chosen as if there had been no guess, so guesses change nothing but the time.
        """
        s = g.sequence
        draft = s.draft[: c.n_draft]
        events: list[Emitted] = []
        since, before = g.last_at if g.first_at is not None else None, g.n_generated
        right = 0
        for i, logits in enumerate(rows):
            try:
                token = g.choose(logits)
            except DecoderFailed as e:
                return events + self._lose(g, e)
            if g.follows_from_tokens:
                self._known.learn(g.name, len(s.tokens), token)
            taken = g.take(token, logits, self._decoder, now)
            if taken.delta:
                events.append((s.id, taken.delta))
            if i == len(draft) or token != draft[i] or self._decoder.is_eog(token):
                break
            right += 1  # its cell is computed already
            if taken.ended:
                break
        s.n_past += right
        if right < len(draft):
            self._decoder.remove(s.slot, s.n_past)
        self._scheduler.slots.grown(s)
        self._book(g, len(draft), right)
        self._time(g, g.n_generated - before, since, now)
        return events + (self._end(g, taken.ended) if taken.ended else [])

    def _book(self, g: Generation, guessed: int, right: int) -> None:
        if g.draft:
            g.draft.result(guessed, right)
        g.n_drafted += guessed
        g.n_accepted += right
        self.metrics.drafted_tokens += guessed
        self.metrics.accepted_tokens += right

    def _time(self, g: Generation, n_new: int, since: float | None, now: float) -> None:
        self.metrics.generated_tokens += n_new
        if n_new and since is None:
            self.metrics.first_token_seconds.observe(max(0.0, now - g.submitted))
        elif since is not None:
            for _ in range(n_new):
                self.metrics.token_seconds.observe(max(0.0, now - since) / n_new)

    def _end(
        self,
        g: Generation,
        reason: FinishReason,
        error: TurboPilotError | None = None,
        *,
        last_text: str = "",
        how: str = "",
    ) -> list[Emitted]:
        """The one way out for a request that was accepted."""
        s = g.sequence
        del self._generations[s.id]
        if self._named.get(g.request.supersedes) == s.id:
            del self._named[g.request.supersedes]
        if s.id in self._queued:
            self._queued.remove(s.id)
            self._scheduler.remove(s)
        if g.draft:
            g.draft.end()
        self.metrics.finish(how or reason)
        events: list[Emitted] = [(s.id, TextDelta(last_text))] if last_text else []
        return [*events, (s.id, Finished(reason, g.usage, error, g.text.stop_string))]

    def _make_room(self, chunks: list[Chunk], error: NoKvSlot) -> list[Emitted]:
        """No cell was free: give up idle tokens and try again in the next step, else the newest request."""
        idle = self._scheduler.slots.idle()
        for slot in idle:
            self._decoder.remove(slot, 0)
            self._scheduler.slots.forget(slot)
        return [] if idle else self._lose(self._generations[chunks[-1].sequence.id], error)

    def _lose(self, g: Generation, error: TurboPilotError) -> list[Emitted]:
        """End a request whose part of the KV cache is not to be trusted."""
        slot = g.sequence.slot
        events = self._end(g, "error", error)
        self._decoder.remove(slot, 0)
        self._scheduler.slots.forget(slot)
        return events

    def _survive(self, chunks: list[Chunk], error: TurboPilotError) -> list[Emitted]:
        """A batch failed. Who was alone in it is at fault and ends; several are tried again, one by one.

        Raises:
            ServeError: llama.cpp cannot make a new context.
        """
        self.metrics.failures += 1
        log.warning("a batch of %d sequences failed: %s", len(chunks), error)
        taken_part = [self._generations[c.sequence.id] for c in chunks]
        events = self._lose(taken_part[0], error) if len(chunks) == 1 else []
        if isinstance(error, DecoderFailed):
            self._rebuild()
        elif isinstance(error, DecodeAborted):
            for g in taken_part[len(events) and 1 :]:
                self._decoder.remove(g.sequence.slot, 0)
                self._scheduler.slots.reset(g.sequence)
        self._suspects = [g.sequence for g in taken_part if g.sequence.id in self._generations]
        return events

    def _rebuild(self) -> None:
        """Make the KV cache anew; what runs computes its tokens again."""
        self.metrics.rebuilds += 1
        self._decoder.rebuild()
        for slot in self._scheduler.slots.free():
            self._scheduler.slots.forget(slot)
        for s in self._scheduler.running:
            self._scheduler.slots.reset(s)

    def _count(self) -> None:
        """How things stand, for whoever looks."""
        m, scheduler = self.metrics, self._scheduler
        m.running, m.waiting = len(scheduler.running), scheduler.n_waiting
        m.stored_bytes = self._store.n_bytes if self._store else 0

    def check_integrity(self) -> None:
        """Raise AssertionError where the books do not balance; for tests and when idle."""
        self._scheduler.check_integrity()
        if not self.has_work:
            assert not self._generations, "a request was lost"
            assert not self._named, "a name was kept"
