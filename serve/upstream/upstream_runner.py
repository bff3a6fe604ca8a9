"""Runner that sends requests to upstreams, each in a thread of its own.

A thread blocks in the connection's socket; the measurements in `client` show that one thread with an event loop for all
requests would save a microsecond a token.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from serve.decoder import Tokenizer
from serve.metrics import EngineMetrics
from serve.request import EndDetail, Finished, GenerationRequest
from serve.runner.admission import Admission
from serve.runner.generation import Generation
from serve.upstream.retry import Tries
from serve.upstream.upstream_call import UpstreamCall
from serve.upstream.upstream_set import CHECK_SECONDS, UpstreamSet
from turbopilot.base.errors import (
    ContextLengthExceeded,
    DecoderFailed,
    Overloaded,
    TurboPilotError,
    UpstreamFailed,
)

log = logging.getLogger("turbopilot.upstream")

MOST_THREADS: Final = 1000  # as many as clients may be connected


class UpstreamWatch:
    """Whether an upstream is there."""

    seconds: float | None = None

    def __init__(self, upstreams: UpstreamSet) -> None:
        self._upstreams = upstreams

    @property
    def stalled(self) -> str:
        """Reason why requests get no answer; "" if an upstream is there."""
        return self._upstreams.trouble


class UpstreamRunner(Admission):
    """Runs generations at upstreams. See `serve.runner.contract.Runner`.

    Args:
        upstreams: the upstreams; closed by `close`.
        tokenizer: tokenizer of their model.
        n_ctx: maximum tokens of prompt and completion.
        max_queue: requests beyond those that the upstreams compute at once.
        random_seed: makes the sequence of default seeds repeatable; None lets the engines choose.
        clock: returns seconds.
    """

    is_remote = True
    n_restarts = 0

    def __init__(
        self,
        upstreams: UpstreamSet,
        tokenizer: Tokenizer,
        n_ctx: int,
        *,
        max_queue: int = 64,
        random_seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self.upstreams = upstreams
        self.watch = UpstreamWatch(upstreams)
        self.metrics = EngineMetrics()  # protected by the lock, as the attributes below
        self._tokenizer, self._n_ctx, self._max_queue = tokenizer, n_ctx, max_queue
        self._seeds = None if random_seed is None else np.random.default_rng(random_seed % 2**64)
        self._open: dict[Generation, list[UpstreamCall]] = {}
        self._sessions: dict[str, Generation] = {}
        self._threads = ThreadPoolExecutor(MOST_THREADS, "turbopilot-upstream")

    def submit(self, generation: Generation) -> None:
        """Send a generation.

        Raises:
            Overloaded: the queue is full, no upstream is there, or the server is shutting down.
            InvalidRequest: no upstream has what a request needs.
            ContextLengthExceeded: a request is too long.
        """
        for request in generation.requests:
            self._check(request)
        tries = [self.upstreams.tries(request) for request in generation.requests]
        with self._lock:
            if not self._refuse and (trouble := self.watch.stalled):
                raise Overloaded(trouble, retry_after=int(CHECK_SECONDS), hint="try again")
            self._admit(len(generation.requests), self.upstreams.n_slots + self._max_queue)
            if name := generation.requests[0].supersedes:
                if earlier := self._sessions.get(name):
                    self._cancel(earlier, "superseded")
                self._sessions[name] = generation
            lock = threading.Lock()
            calls = [
                UpstreamCall(
                    generation,
                    i,
                    lock,
                    self._tokenizer,
                    self._clock,
                    self._time,
                    seed=self._seed(r),
                )
                for i, r in enumerate(generation.requests)
            ]
            self._open[generation] = calls
            self.metrics.running = self.n_open
            for call, its_tries in zip(calls, tries, strict=True):
                self.metrics.prompt_tokens += call.request.n_prompt
                self._threads.submit(self._run, call, its_tries)

    def _check(self, request: GenerationRequest) -> None:
        if request.n_prompt + request.max_tokens > self._n_ctx:
            raise ContextLengthExceeded(
                f"the prompt ({request.n_prompt} tokens) and max_tokens ({request.max_tokens}) do not "
                f"fit into the context of {self._n_ctx} tokens"
            )

    def _seed(self, request: GenerationRequest) -> int | None:
        """Return the seed for an engine. Choices with the same seed of the client differ by their index."""
        s = request.sampling
        if s.seed is not None:
            return s.seed + s.stream
        return None if self._seeds is None else int(self._seeds.integers(2**31))

    def _run(self, call: UpstreamCall, tries: Tries) -> None:
        """Run a request at one upstream after the other until one answers it."""
        try:
            last = self._answer(call, tries)
        except Exception as e:
            log.exception("a request to the upstreams failed")
            failed = DecoderFailed(f"the request failed: {e}", hint="see the server's log")
            last = Finished("error", call.usage, failed)
        self._end(call, last)

    def _answer(self, call: UpstreamCall, tries: Tries) -> Finished:
        error: TurboPilotError | None = None
        while not call.is_cancelled and (attempt := self.upstreams.next(tries)):
            end = call.attempt(attempt)
            again = self.upstreams.ended(
                tries, attempt.member, end.outcome, end.waited, streamed=call.streamed
            )
            if end.last:
                return end.last
            error = end.error
            log.info("%s", error)
            if not again:
                break
        if call.is_cancelled:
            return Finished("cancelled", call.usage, how=call.how)
        error = error or UpstreamFailed("no upstream is available", hint="try again")
        return Finished("error", call.usage, error)

    def _time(self, since: float, now: float, *, is_first: bool) -> None:
        """Count the seconds to the first text of a request, or between two."""
        histogram = self.metrics.first_token_seconds if is_first else self.metrics.token_seconds
        with self._lock:
            histogram.observe(max(0.0, now - since))

    def _end(self, call: UpstreamCall, last: Finished) -> None:
        """Deliver a request's last event. If it was cancelled, the others of its generation end too."""
        generation = call.generation
        with self._lock:
            calls = self._open[generation]
            calls.remove(call)
            if not calls:
                del self._open[generation]
                name = generation.requests[0].supersedes
                if self._sessions.get(name) is generation:
                    del self._sessions[name]
            self._count(call, last)
            if last.reason == "cancelled":
                self._cancel(generation, call.how)
        call.end(last)

    def _count(self, call: UpstreamCall, last: Finished) -> None:
        m = self.metrics
        m.finish(last.how or last.reason)
        m.cached_tokens += last.usage.cached_tokens
        m.generated_tokens += last.usage.completion_tokens
        self._count_ended(1)
        m.running = self.n_open

    def cancel(self, generation: Generation) -> None:
        """Cancel the requests of a generation that have not ended."""
        with self._lock:
            self._cancel(generation)

    def _cancel(self, generation: Generation, how: EndDetail = "") -> None:
        for call in self._open.get(generation, ()):
            call.cancel(how)

    def request_stop(self) -> None:
        """Refuse new generations and cancel the open ones, without waiting for their end."""
        with self._lock:
            self.drain()
            self.is_cut = True
            for generation in list(self._open):
                self._cancel(generation)

    def close(self) -> None:
        """Cancel all requests, wait until they have ended, and close the connections."""
        self.request_stop()
        self._threads.shutdown()
        self.upstreams.close()
