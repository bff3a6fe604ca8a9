"""One step at a time from requests to events. Pure: knows no thread, socket or llama.cpp; the clock is handed in.

Every accepted request ends in exactly one `Finished`. Whatever happens to one request (a bad row of logits, no
room, a batch that fails because of it) ends that request, not the engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from serve.decoder import Decoder, Logits
from serve.drafting import DraftModel
from serve.engine.generation import Generation
from serve.engine.guessing import Guessing
from serve.engine.options import EngineOptions
from serve.engine.pace import Pace
from serve.engine.placement import WORTH_KEEPING, Admission
from serve.engine.planner import Chunk
from serve.engine.prefix_store import PrefixStore
from serve.engine.recovery import Recovery
from serve.engine.requests import Emitted, Requests
from serve.engine.scheduler import Scheduler
from serve.metrics import EngineMetrics
from serve.request import GenerationRequest
from turbopilot.base.errors import (
    BadBatch,
    DecodeAborted,
    DecoderFailed,
    NoKvSlot,
    TurboPilotError,
)

log = logging.getLogger("turbopilot.engine")

_AHEAD = -1  # the id of what nobody asked for; requests have others


class Engine:
    """Generates for many requests through one decoder.

    Args:
        decoder: the model; the engine's caller is its only user from now on.
        options: how it is set up.
        clock: seconds, from any start; it may jump.
        draft_model: guesses where the text itself gives nothing to guess from.
    """

    def __init__(
        self,
        decoder: Decoder,
        options: EngineOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
        draft_model: DraftModel | None = None,
    ) -> None:
        options = options or EngineOptions()
        self._decoder, self._clock, self._draft_model = decoder, clock, draft_model
        self.metrics = EngineMetrics(n_cells=decoder.n_cells)
        self._store = PrefixStore(
            options.prefix_cache_bytes, decoder.identity, options.prefix_folder
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
        self._requests = Requests(
            decoder,
            clock,
            random_seed=options.random_seed,
            guesses=options.drafts,
            leave=self._scheduler.remove,
            metrics=self.metrics,
        )
        self._looks_ahead = options.looks_ahead
        self._pace = Pace()
        self._guessing = Guessing(
            self._requests,
            self._pace,
            clock,
            n_batch=decoder.n_batch,
            only_alone=decoder.n_cells > decoder.n_ctx,
            draft_model=draft_model,
        )
        self._recovery = Recovery(decoder, self._scheduler, self._requests, self.metrics)

    def warm_up(self) -> None:
        """Compute something before the first request, in the thread that calls `step`."""
        self._decoder.warm_up()
        if self._draft_model:
            self._draft_model.warm_up()

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return self._scheduler.has_work

    @property
    def can_look_ahead(self) -> bool:
        """Whether `look_ahead` would begin something."""
        return self._looks_ahead and not self.has_work and self._requests.can_look_ahead

    def look_ahead(self) -> None:
        """While nobody wants anything: begin what is asked for next if the last suggestion is taken.

        It is dropped when somebody wants something; what it has computed by then stays known.
        """
        request = self._requests.next_after_last()
        if request:
            generation, _ = self._requests.begin(_AHEAD, request, ours=True)
            if generation:
                self._scheduler.add(generation.sequence)

    def submit(self, request_id: int, request: GenerationRequest) -> list[Emitted]:
        """Accept a request. One that can never run, or whose answer is known, ends at once in the events returned."""
        self.cancel(_AHEAD)
        generation, events = self._requests.begin(request_id, request)
        if generation:
            self._scheduler.add(generation.sequence)
        self._count()
        return events

    def cancel(self, request_id: int) -> list[Emitted]:
        """End a request that nobody waits for any more; nothing where it has ended already."""
        if request_id not in self._requests:
            return []
        events = self._requests.end(self._requests[request_id], "cancelled")
        self._count()
        return events

    def fail_all(self, error: TurboPilotError | None = None) -> list[Emitted]:
        """End every request: with the error, or as cancelled where there is none."""
        events = self._requests.end_all(error)
        self._count()
        return events

    def reset(self, error: TurboPilotError) -> list[Emitted]:
        """After an exception that nobody expected: end everything, and begin with an empty KV cache.

        Raises:
            ServeError: llama.cpp cannot make a new one.
        """
        events = self.fail_all(error)
        self._recovery.rebuild()
        return events

    def close(self) -> None:
        """Keep what is computed for the next start, where it is wished."""
        for slot in self._scheduler.slots.idle():
            cached = self._scheduler.slots.all[slot].cached
            is_long = len(cached) >= WORTH_KEEPING
            if self._store.keeps and is_long and not self._store.covers(cached):
                self._store.put(cached, self._decoder.save(slot))
        self._store.close()

    def step(self) -> list[Emitted]:
        """Compute one batch and return what became certain by it."""
        events = self._requests.expire()
        for admission in self._scheduler.admit():
            self._prepare(admission)
        chunks = self._plan()
        if chunks:
            events += self._compute(chunks)
        self._count()
        return [(i, e) for i, e in events if i != _AHEAD]

    def _prepare(self, admission: Admission) -> None:
        """Bring the beginning that the sequence shares with something computed into its slot."""
        s, decoder = admission.sequence, self._decoder
        g = self._requests[s.id]
        # Before others are put there, for which it might have to go.
        state = None if admission.stored is None else self._store.get(admission.stored)
        for slot, tokens in admission.save:
            self._store.put(tokens, decoder.save(slot))
        for slot in admission.clear:
            decoder.remove(slot, 0)
        done = True
        if admission.stored is not None:
            done = bool(state) and decoder.restore(s.slot, state or b"")
            if not done:
                self._store.drop(admission.stored)
        elif admission.source is not None and admission.source != s.slot:
            done = decoder.copy(admission.source, s.slot, s.n_past)
        if not (done and decoder.remove(s.slot, s.n_past)):
            decoder.remove(s.slot, 0)  # a recurrent state cannot be cut: begin anew
            self._scheduler.slots.reset(s)
        elif admission.stored is not None:
            self.metrics.restored_tokens += s.n_past
        if g.is_ours:
            return
        g.began = now = self._clock()
        g.n_cached = min(s.n_past, len(g.request.prompt))
        self.metrics.queue_seconds.observe(max(0.0, now - g.submitted))
        self.metrics.prompt_tokens += len(g.request.prompt)
        self.metrics.cached_tokens += g.n_cached

    def _plan(self) -> list[Chunk]:
        """The next batch. After a failure, those that took part are tried one by one, to find the one at fault."""
        suspect = self._recovery.suspect()
        if suspect:
            return self._scheduler.planner.plan_alone(suspect)
        self._guessing.give(self._scheduler.running)
        n = self._decoder.n_batch
        return self._scheduler.planner.plan(
            self._pace.prompt_budget(n, somebody_waits=True),
            self._pace.prompt_budget(n, somebody_waits=False),
        )

    def _compute(self, chunks: list[Chunk]) -> list[Emitted]:
        batch = [
            item for c in chunks for item in c.items(not self._requests[c.sequence.id].only_warms)
        ]
        began = self._clock()
        try:
            rows = self._decoder.decode(batch)
        except NoKvSlot as e:
            return self._recovery.make_room(chunks, e)
        except (DecodeAborted, BadBatch, DecoderFailed) as e:
            return self._recovery.survive(chunks, e)
        now = self._clock()
        self._pace.observe(len(batch), now - began, n_sequences=len(chunks))
        m = self.metrics
        m.steps += 1
        m.batch_tokens += len(batch)
        m.batch_sequences += len(chunks)
        m.decode_seconds += max(0.0, now - began)
        events: list[Emitted] = []
        row = 0
        for c in chunks:
            g = self._requests[c.sequence.id]
            self._scheduler.computed(c.sequence, c.stop)
            scored = c.n_scored
            if scored or (g.request.scores_prompt and c.start == 0):
                events.append(
                    (c.sequence.id, g.score(rows[row : row + scored], c.start, self._decoder))
                )
                row += scored
            if c.is_last and g.only_warms:
                events += self._requests.end(g, "length")
            elif c.is_last:
                n = 1 + c.n_draft
                events += self._advance(g, c, rows[row : row + n], now)
                row += n
            if c.is_last:
                self._recovery.acquit(c.sequence)
        return events

    def _advance(self, g: Generation, c: Chunk, rows: Logits, now: float) -> list[Emitted]:
        """Choose a sequence's next tokens, and forget the guesses that were wrong."""
        s = g.sequence
        since, before = g.last_at if g.first_at is not None else None, g.n_generated
        try:
            advance = g.advance(
                rows, s.draft[: c.n_draft], self._decoder, now, self._requests.learn
            )
        except TurboPilotError as e:  # logits that are no numbers, a grammar that leaves no token
            return self._recovery.lose(g, e)
        self._scheduler.computed(s, c.stop + advance.n_right)
        if advance.n_right < c.n_draft:
            self._decoder.remove(s.slot, s.n_past)
        self.metrics.drafted_tokens += c.n_draft
        self.metrics.accepted_tokens += advance.n_right
        self._requests.count_tokens(g, g.n_generated - before, since, now)
        events: list[Emitted] = [(s.id, delta) for delta in advance.deltas]
        return events + (self._requests.end(g, advance.ended) if advance.ended else [])

    def _count(self) -> None:
        """How things stand, for whoever looks."""
        m, scheduler = self.metrics, self._scheduler
        m.running, m.waiting = len(scheduler.running), scheduler.n_waiting
        if m.steps % 64 == 0 or not scheduler.has_work:  # counting takes longer than a step may
            m.used_cells = scheduler.slots.used_cells()
        m.stored_bytes = self._store.n_bytes

    def check_integrity(self) -> None:
        """Raise AssertionError where the books do not balance; for tests and when idle."""
        self._scheduler.check_integrity()
        self._requests.check_integrity()
        if not self.has_work:
            assert not len(self._requests), "a request was lost"
