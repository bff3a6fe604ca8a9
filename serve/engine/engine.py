"""The engine's step, which turns requests into events.

Every accepted request ends with exactly one `Finished`. A failure caused by one request (NaN in its logits, no room in
the KV cache, a failed batch) ends that request, not the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from serve.decoder import Decoder, Logits
from serve.drafting import DraftModel, DraftWish
from serve.engine.checkpoints import Checkpoints
from serve.engine.options import EngineOptions
from serve.engine.planner import Planner
from serve.engine.prefix_store import PrefixStore
from serve.engine.recovery import Recovery
from serve.engine.requests import Emitted, Requests
from serve.engine.scheduler import Scheduler
from serve.engine.sequence import Sequence
from serve.engine.tuner import Tuner
from serve.metrics import EngineMetrics
from serve.request import GenerationRequest, Rank
from turbopilot.base.errors import (
    BadBatch,
    DecodeAborted,
    DecoderFailed,
    NoKvSlot,
    TurboPilotError,
)

_AHEAD = -1  # id of the request computed ahead; clients' requests have other ids


class Engine:
    """Generates text for many requests with one decoder.

    Args:
        decoder: the model; it must not be used elsewhere while the engine exists.
        options: the engine's options.
        clock: returns seconds since an arbitrary start; it may jump.
        draft_model: drafts tokens if neither earlier completions nor repeated text give any.
        on_end: called with each sequence that ends.
    """

    def __init__(
        self,
        decoder: Decoder,
        options: EngineOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
        draft_model: DraftModel | None = None,
        on_end: Callable[[Sequence], None] = lambda _: None,
    ) -> None:
        options = options or EngineOptions()
        self.decoder, self._clock, self._draft_model = decoder, clock, draft_model
        self._looks_ahead = options.looks_ahead
        self.metrics = EngineMetrics(n_cells=decoder.n_cells)
        n_slots = min(options.n_slots, decoder.n_seq)
        most_drafted = max(0, decoder.n_outputs - n_slots)
        self._store = PrefixStore(
            options.prefix_cache_bytes,
            decoder.identity,
            options.prefix_folder,
            can_cut=decoder.can_cut,
        )
        needs_checkpoints = self._store.keeps and not decoder.can_cut
        self._checkpoints = Checkpoints(decoder, self._store) if needs_checkpoints else None
        self._scheduler = Scheduler(
            decoder, n_slots, self._store, reuses=options.reuses, shares=options.shares
        )
        self._slots = self._scheduler.slots
        self.metrics.slots = self._slots.states
        self._planner = Planner(self._slots, n_batch=decoder.n_batch, most_drafted=most_drafted)
        self._requests = Requests(
            decoder,
            self._scheduler,
            self.metrics,
            random_seed=options.random_seed,
            drafts=options.drafts,
            on_end=on_end,
        )
        self._recovery = Recovery(decoder, self._slots, self._requests, self.metrics)
        self.tuner = Tuner(decoder, self._store, self._recovery)

    def warm_up(self) -> None:
        """Warm up the models before the first request; call this in the thread that calls `step`."""
        self.decoder.warm_up()
        if self._draft_model:
            self._draft_model.warm_up()

    @property
    def has_work(self) -> bool:
        """Whether any sequence is queued or running."""
        return self._scheduler.has_work

    @property
    def gives_way(self) -> bool:
        """Whether all of its work can wait for that of others."""
        return self._scheduler.first_rank >= Rank.LOW

    @property
    def can_look_ahead(self) -> bool:
        """Whether `look_ahead` would begin a request."""
        return self._looks_ahead and not self.has_work and self._requests.can_look_ahead

    def look_ahead(self) -> None:
        """Begin the completion that follows if the client accepts the last one.

        The next request of normal priority cancels it; the tokens generated so far stay in the answer cache.
        """
        if request := self._requests.next_after_last():
            self._requests.begin(_AHEAD, request, self._clock(), ours=True)

    @property
    def can_tune(self) -> bool:
        """Whether `tuner` has work: only while idle, and after the first request."""
        return not (self.tuner.is_done or self.has_work) and bool(self.metrics.finished)

    def submit(self, request_id: int, request: GenerationRequest) -> list[Emitted]:
        """Accept a request and return its first events.

        A request that can never run, or whose completion is in the answer cache, ends at once.
        """
        if not request.is_low:
            self._requests.cancel(_AHEAD)
        return self._counted(self._requests.begin(request_id, request, self._clock()))

    def cancel(self, request_id: int) -> list[Emitted]:
        """Cancel a request; do nothing if it has already ended."""
        return self._counted(self._requests.cancel(request_id))

    def expire(self) -> list[Emitted]:
        """End requests whose deadline has passed; `step` does so, too."""
        return self._counted(self._requests.expire(self._clock()))

    def fail_all(self, error: TurboPilotError | None = None) -> list[Emitted]:
        """End every request with the error, or as cancelled if there is none."""
        return self._counted(self._requests.end_all(error))

    def reset(self, error: TurboPilotError) -> list[Emitted]:
        """End all requests with an error and create a new, empty KV cache, after an unexpected exception.

        Raises:
            ServeError: llama.cpp cannot create the KV cache.
        """
        events = self.fail_all(error)
        self._recovery.rebuild()
        return events

    def close(self) -> None:
        """Save the prefix cache for the next start if `prefix_folder` is set."""
        self._scheduler.save_idle()
        self._store.close()

    def step(self) -> list[Emitted]:
        """Compute one batch and return the resulting events."""
        events = self._requests.expire(self._clock())
        for s in self._scheduler.admit():
            if self._checkpoints:
                self._checkpoints.plan(s)
            self._count_admitted(s)
        if step := self._plan():
            events += self._compute(step)
        return self._counted([(i, e) for i, e in events if i != _AHEAD])

    def _count_admitted(self, s: Sequence) -> None:
        self.metrics.restored_tokens += s.n_restored
        self.metrics.moved_tokens += s.n_moved
        if s.began is not None:  # it gave way, and goes on
            return
        s.began = now = self._clock()
        s.n_cached = s.n_prompt_held
        if s.is_ours:
            return
        self.metrics.queue_seconds.observe(max(0.0, now - s.submitted))
        self.metrics.prompt_tokens += s.request.n_prompt
        self.metrics.cached_tokens += s.n_cached

    def _plan(self) -> list[Sequence]:
        """Plan the next step.

        After a batch has failed, its sequences run one by one to find the one that caused the failure.
        """
        for s in self._slots.running:
            if s.is_suspect:
                return self._planner.plan_alone(s)
        self._draft()
        return self._planner.plan()

    def _draft(self) -> None:
        """Set `draft` of each sequence whose next token the step may choose; clear it for the others.

        Drafts come from earlier completions and repeated text first, then from the draft model. If each sequence has
        separate cells, llama.cpp computes sequences in one pass only up to equal numbers of tokens, and the rest in
        further passes. A sequence then gets a draft only if it runs alone.
        """
        running = self._slots.running
        if self._requests.drafter:
            self._requests.drafter.cost = self._planner.draft_cost
        only_alone = self.decoder.n_cells > self.decoder.n_ctx
        wanted: dict[int, DraftWish] = {}
        for s in running:
            s.draft = []
            left = s.n_left - 1
            if len(running) > 1 and only_alone:
                continue
            if not s.drafting or s.n_pending > self.decoder.n_batch or left < 1:
                continue
            s.draft = s.drafting.propose(left)
            if not s.draft and s.generates and self._draft_model:
                wanted[s.slot] = DraftWish(s.tokens, s.drafting.allowed(left))
        if wanted and self._draft_model:
            began = self._clock()
            found = self._draft_model.propose(wanted)
            self._planner.observe_drafts(sum(map(len, found.values())), self._clock() - began)
            for s in running:
                s.draft = found.get(s.slot, s.draft)

    def _compute(self, step: list[Sequence]) -> list[Emitted]:
        batch = [item for s in step for item in s.batch()]
        began = self._clock()
        self.decoder.use_adapters(step[0].request.adapters)
        try:
            rows = self.decoder.decode(batch)
        except NoKvSlot as e:
            return self._recovery.make_room(step, e)
        except (DecodeAborted, BadBatch, DecoderFailed) as e:
            return self._recovery.survive(step, e)
        now = self._clock()
        self._planner.observe(len(batch), now - began, n_sequences=len(step))
        m = self.metrics
        m.steps += 1
        m.batch_tokens += len(batch)
        m.batch_sequences += len(step)
        m.decode_seconds += max(0.0, now - began)
        events: list[Emitted] = []
        row = 0
        for s in step:
            start, n = s.n_past, s.n_to_score
            self._slots.computed(s, s.stop)
            if self._checkpoints:
                self._checkpoints.keep(s)
            if n or (s.request.scores_prompt and start == 0):
                events.append((s.id, s.score(rows[row : row + n], start, self.decoder)))
                row += n
            if not s.is_complete:
                continue
            s.is_suspect = False
            if s.only_warms:
                events += self._requests.end(s, "length")
            else:
                n = 1 + len(s.draft)
                events += self._advance(s, rows[row : row + n], now)
                row += n
        return events

    def _advance(self, s: Sequence, rows: Logits, now: float) -> list[Emitted]:
        """Choose a sequence's next tokens, and remove rejected draft tokens from the KV cache."""
        since, before = s.last_at if s.first_at is not None else None, s.n_new
        try:
            deltas, n_right = s.advance(rows, self.decoder, now, self._requests.learn)
        except TurboPilotError as e:  # NaN in the logits, or the schema allows no token
            return self._recovery.lose(s, e)
        self._slots.computed(s, s.stop + n_right)
        if n_right < len(s.draft):
            self.decoder.remove(s.slot, s.n_past)
        self.metrics.drafted_tokens += len(s.draft)
        self.metrics.accepted_tokens += n_right
        self._requests.count_tokens(s, s.n_new - before, since, now)
        events = self._requests.deltas(s, deltas)
        return events + (self._requests.end(s, s.ended) if s.ended else [])

    def _counted(self, events: list[Emitted]) -> list[Emitted]:
        """Update the gauges and return `events`."""
        m, scheduler = self.metrics, self._scheduler
        m.running, m.waiting = len(self._slots.running), scheduler.n_waiting
        if m.steps % 64 == 0 or not scheduler.has_work:  # counting is too slow for every step
            m.used_cells = self._slots.used_cells()
        store = self._store
        m.stored_bytes, m.store_hits, m.store_dropped = store.n_bytes, store.n_hits, store.n_dropped
        return events

    def check_integrity(self) -> None:
        """Raise AssertionError if the state is inconsistent."""
        self._scheduler.check_integrity()
        self._requests.check_integrity()
        if not self.has_work:
            assert not len(self._requests), "a request was lost"
