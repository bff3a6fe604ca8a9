"""Active requests: how they begin and end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np

from serve.decoder import Decoder
from serve.drafting import Drafter
from serve.engine.answer_cache import AnswerCache
from serve.engine.scheduler import Scheduler
from serve.engine.sequence import Sequence
from serve.metrics import EngineMetrics
from serve.request import (
    EndDetail,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    TextDelta,
    Usage,
)
from serve.sampling import Sampler, seed_sequence
from serve.sampling.healing import heal
from turbopilot.base.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidRequest,
    TurboPilotError,
)

Emitted: TypeAlias = tuple[int, Event]


def _tokens(decoder: Decoder, data: bytes) -> list[int]:
    """Return the token ids of UTF-8 bytes; an incomplete character at the end is dropped."""
    return decoder.tokenize(data.decode("utf-8", "ignore"), parse_special=False)


class Requests:
    """All active requests: those that have begun and not ended.

    Args:
        decoder: the model.
        scheduler: queues and runs the requests.
        metrics: counts tokens and finish reasons.
        random_seed: makes the sequence of default seeds repeatable; None uses the system's entropy.
        drafts: whether to draft tokens.
        on_end: called with each sequence that ends.
    """

    def __init__(
        self,
        decoder: Decoder,
        scheduler: Scheduler,
        metrics: EngineMetrics,
        *,
        random_seed: int | None,
        drafts: bool,
        on_end: Callable[[Sequence], None],
    ) -> None:
        self._decoder, self._scheduler, self._metrics = decoder, scheduler, metrics
        self._on_end = on_end
        self._under_way: dict[int, Sequence] = {}
        self._named: dict[str, int] = {}
        self._answers = AnswerCache()
        self._last: Sequence | None = None  # the latest completion, which the user may accept next
        self.drafter = (
            Drafter(partial(_tokens, decoder), decoder.piece, fim=decoder.fim)
            if drafts and decoder.can_cut
            else None
        )
        entropy = None if random_seed is None else random_seed % 2**64
        self._seeds = np.random.SeedSequence(entropy)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._under_way

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(
        self, request_id: int, request: GenerationRequest, now: float, *, ours: bool = False
    ) -> list[Emitted]:
        """Accept a request. `ours` marks one that the engine computes ahead, without a client.

        Returns:
            The events known at once: the end of a superseded request, an error, or cached tokens.
        """
        events: list[Emitted] = []
        name = request.supersedes
        if name and (earlier := self._named.get(name)) is not None:
            events += self.end(self._under_way[earlier], "cancelled", how="superseded")
        try:
            self._check(request)
            s = self._make(request_id, request, now, ours)
        except TurboPilotError as e:
            self._metrics.finish("error")
            refusal = Finished("error", Usage(request.n_prompt, 0), e)
            return [*events, (request_id, refusal)]
        self._under_way[request_id] = s
        if name:
            self._named[name] = request_id
        events += self._replay(s)
        if not s.ended:
            s.is_scheduled = True
            self._scheduler.add(s)
        return events

    def _check(self, request: GenerationRequest) -> None:
        """Raise InvalidRequest if the request can never run."""
        if request.n_prompt + request.max_tokens > self._decoder.n_ctx:
            raise ContextLengthExceeded(
                f"the prompt ({request.n_prompt} tokens) and max_tokens ({request.max_tokens}) do not "
                f"fit into the context of {self._decoder.n_ctx} tokens"
            )
        if not request.prompt:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        if not all(0 <= t < self._decoder.n_vocab for t in request.prompt):
            raise InvalidRequest("the prompt contains out-of-vocabulary ids", param="prompt")

    def _make(
        self, request_id: int, request: GenerationRequest, now: float, ours: bool
    ) -> Sequence:
        sampling = request.sampling
        if sampling.seed is None:
            (seed,) = self._seeds.spawn(1)
        else:
            seed = seed_sequence(sampling.seed, sampling.stream)
        drafting = None
        if self.drafter and request.max_tokens:
            drafting = self.drafter.begin(
                request.prompt, request.context, request.prediction.encode(), request.healing
            )
        sampler = Sampler(sampling, seed, constraint=request.constraint, vocab=self._decoder)
        return Sequence(request_id, request, sampler, drafting, now, ours)

    def _replay(self, s: Sequence) -> list[Emitted]:
        """Add tokens from the answer cache; they may complete the request."""
        events: list[Emitted] = []
        if s.only_warms or not s.follows_from_tokens:
            return events
        while (token := self._answers.next(s.answer_name, s.n_named)) is not None:
            if delta := s.take(token, None, self._decoder, s.submitted):
                events += self.deltas(s, [delta])
            if s.ended:
                s.n_cached = s.request.n_prompt
                events += self.end(s, s.ended)
                break
        self._metrics.known_tokens += 0 if s.is_ours else s.n_new
        self.count_tokens(s, s.n_new, None, s.submitted)
        return events

    def deltas(self, s: Sequence, deltas: list[TextDelta]) -> list[Emitted]:
        """Return the events of a sequence's next text, with its token counts if the request reports them."""
        if s.request.reports_usage:
            deltas = [replace(d, usage=s.usage) for d in deltas]
        return [(s.id, d) for d in deltas]

    @property
    def can_look_ahead(self) -> bool:
        """Whether there is a last completion that the client could accept."""
        return self._last is not None

    def next_after_last(self) -> GenerationRequest | None:
        """Return the request that follows if the client accepts the last completion.

        Return it only once for each completion; return None if it does not fit into the context.
        """
        last, self._last = self._last, None
        if last is None or last.n_named + last.request.max_tokens > self._decoder.n_ctx:
            return None
        request, prompt = last.request, [*last.request.prompt, *last.tokens[last.n_prompt :]]
        healing = request.healing and heal(prompt, request.healing.index, keep=1)
        return GenerationRequest(
            tuple(prompt),
            request.max_tokens,
            sampling=request.sampling,
            window=request.window,
            healing=healing,
            adapters=request.adapters,
        )

    def learn(self, s: Sequence, token: int) -> None:
        """Store `token` in the answer cache as the sequence's next one."""
        if s.follows_from_tokens:
            self._answers.learn(s.answer_name, s.n_named, token)

    def count_tokens(self, s: Sequence, n_new: int, since: float | None, now: float) -> None:
        """Count `n_new` tokens; `since` is the time of the preceding token, or None if they are the first."""
        if s.is_ours:
            self._metrics.ahead_tokens += n_new
            return
        self._metrics.generated_tokens += n_new
        if n_new and since is None:
            self._metrics.first_token_seconds.observe(max(0.0, now - s.submitted))
        elif since is not None:
            for _ in range(n_new):
                self._metrics.token_seconds.observe(max(0.0, now - since) / n_new)

    def expire(self, now: float) -> list[Emitted]:
        """End requests whose deadline has passed."""
        events: list[Emitted] = []
        for s in [s for s in self._under_way.values() if s.is_late(now)]:
            if s.n_new:
                events += self.end(s, "length", last_text=s.text.finish(), how="deadline")
            else:
                error = DeadlineExceeded(
                    f"no token was generated within {s.request.deadline:g} s",
                    hint="the server is busy: try again, or allow more time",
                )
                events += self.end(s, "error", error, how="deadline")
        return events

    def cancel(self, request_id: int) -> list[Emitted]:
        """Cancel a request; do nothing if it has already ended."""
        s = self._under_way.get(request_id)
        return self.end(s, "cancelled") if s else []

    def end(
        self,
        s: Sequence,
        reason: FinishReason,
        error: TurboPilotError | None = None,
        *,
        last_text: str = "",
        how: EndDetail = "",
    ) -> list[Emitted]:
        """End an active request. Every request ends here."""
        del self._under_way[s.id]
        if self._named.get(s.request.supersedes) == s.id:
            del self._named[s.request.supersedes]
        if s.is_scheduled:
            self._scheduler.remove(s)
        if s.drafting:
            s.drafting.end()
        self._on_end(s)
        if s.is_ours:
            return []
        self._metrics.finish(how or reason)
        # Nothing follows a rewritten text.
        is_continued = s.follows_from_tokens and not s.request.prediction
        if reason in ("stop", "length") and s.n_new and is_continued:
            self._last = s
        events: list[Emitted] = [(s.id, TextDelta(last_text))] if last_text else []
        return [*events, (s.id, Finished(reason, s.usage, error, s.text.stop_string, how))]

    def end_all(self, error: TurboPilotError | None) -> list[Emitted]:
        """End all requests with the error, or as cancelled if there is none."""
        reason: FinishReason = "error" if error else "cancelled"
        return [e for s in tuple(self._under_way.values()) for e in self.end(s, reason, error)]

    def check_integrity(self) -> None:
        """Raise AssertionError if the state is inconsistent."""
        assert all(i in self._under_way for i in self._named.values())
        assert all(s.is_scheduled for s in self._under_way.values())
