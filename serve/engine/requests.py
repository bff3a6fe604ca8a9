"""The book of requests under way: how they begin, and the one way out. Pure: the clock is handed in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np

from serve.decoder import Decoder
from serve.drafting import Drafter
from serve.engine.answer_cache import KnownTokens
from serve.engine.generation import Generation
from serve.engine.sequence import Sequence
from serve.metrics import EngineMetrics
from serve.request import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    TextDelta,
    Usage,
)
from serve.sampling import Sampler, seed_sequence
from serve.text import TextStream
from turbopilot.base.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidRequest,
    TurboPilotError,
)

Emitted: TypeAlias = tuple[int, Event]


def _tokens(decoder: Decoder, data: bytes) -> list[int]:
    """Token ids of bytes that may end within a character."""
    return decoder.tokenize(data.decode("utf-8", "ignore"), parse_special=False)


class Requests:
    """All requests that have begun and not ended.

    Args:
        decoder: the model.
        clock: seconds, from any start.
        random_seed: makes the sequence of default seeds repeatable; None is the system's entropy.
        guesses: whether they guess tokens ahead.
        leave: called with the sequence of each request that ends after `begin` returned it.
        metrics: where ends are counted.
    """

    def __init__(
        self,
        decoder: Decoder,
        clock: Callable[[], float],
        *,
        random_seed: int | None,
        guesses: bool,
        leave: Callable[[Sequence], None],
        metrics: EngineMetrics,
    ) -> None:
        self._decoder, self._clock, self._leave, self._metrics = decoder, clock, leave, metrics
        self._under_way: dict[int, Generation] = {}
        self._named: dict[str, int] = {}
        self._known = KnownTokens()
        self._last: Generation | None = None  # the suggestion that somebody looks at now
        self._drafter = (
            Drafter(partial(_tokens, decoder), decoder.piece, fim=decoder.fim)
            if guesses and decoder.can_cut
            else None
        )
        entropy = None if random_seed is None else random_seed % 2**64
        self._seeds = np.random.SeedSequence(entropy)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._under_way

    def __getitem__(self, request_id: int) -> Generation:
        return self._under_way[request_id]

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(
        self, request_id: int, request: GenerationRequest, *, ours: bool = False
    ) -> tuple[Generation | None, list[Emitted]]:
        """Accept a request, or begin one of ours that nobody asked for.

        Returns:
            It, if something is to be computed for it; and the events that are certain at once: the end of a request
            that it supersedes, a refusal, the tokens that are known to follow.
        """
        events: list[Emitted] = []
        name = request.supersedes
        if name and (earlier := self._named.get(name)) is not None:
            events += self.end(self._under_way[earlier], "cancelled", how="superseded")
        try:
            self._check(request)
            g = self._make(request_id, request)
            g.is_ours = ours
        except TurboPilotError as e:
            self._metrics.finish("error")
            refusal = Finished("error", Usage(len(request.prompt), 0), e)
            return None, [*events, (request_id, refusal)]
        self._under_way[request_id] = g
        if name:
            self._named[name] = request_id
        events += self._replay(g)
        g.is_scheduled = request_id in self._under_way
        return (g if g.is_scheduled else None), events

    def _check(self, request: GenerationRequest) -> None:
        """Raise where it can never run."""
        if len(request.prompt) + request.max_tokens > self._decoder.n_ctx:
            raise ContextLengthExceeded(
                f"the prompt ({len(request.prompt)} tokens) and max_tokens ({request.max_tokens}) do not "
                f"fit into the context of {self._decoder.n_ctx} tokens"
            )
        if not request.prompt:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        if not all(0 <= t < self._decoder.n_vocab for t in request.prompt):
            raise InvalidRequest("the prompt holds ids outside the vocabulary", param="prompt")

    def _make(self, request_id: int, request: GenerationRequest) -> Generation:
        sampling = request.sampling
        if sampling.seed is None:
            (seed,) = self._seeds.spawn(1)
        else:
            seed = seed_sequence(sampling.seed, sampling.stream)
        constraint = self._decoder.constraint(sampling.grammar) if sampling.grammar else None
        warms = request.max_tokens == 0
        n_reserved = len(request.prompt) + request.max_tokens
        draft = None
        if self._drafter and not warms:
            draft = self._drafter.begin(request.prompt, request.context)
        return Generation(
            request=request,
            sequence=Sequence(
                request_id,
                list(request.prompt),
                n_reserved,
                idles=warms and not request.scores_prompt,
                n_scored=len(request.prompt) - 1 if request.scores_prompt else 0,
            ),
            sampler=Sampler(sampling, seed, constraint=constraint, vocab=self._decoder),
            text=TextStream(request.stop),
            draft=draft,
            submitted=self._clock(),
        )

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
                g.n_cached = len(g.request.prompt)
                events += self.end(g, taken.ended)
                break
        self._metrics.known_tokens += 0 if g.is_ours else g.n_generated
        self.count_tokens(g, g.n_generated, None, g.submitted)
        return events

    def price_guesses(self, cost: float) -> None:
        """What a guessed token costs from now on, in steps."""
        if self._drafter:
            self._drafter.cost = cost

    @property
    def can_look_ahead(self) -> bool:
        """Whether there is a suggestion that could be taken, and room to go on after it."""
        return self._last is not None

    def next_after_last(self) -> GenerationRequest | None:
        """What is asked for next if the last suggestion is taken as it is; once."""
        last, self._last = self._last, None
        if last is None:
            return None
        prompt, n = tuple(last.sequence.tokens), last.request.max_tokens
        if len(prompt) + n > self._decoder.n_ctx:
            return None
        return GenerationRequest(prompt, n, sampling=last.request.sampling)

    def learn(self, g: Generation, token: int) -> None:
        """`token` was computed to follow the sequence of `g`."""
        if g.follows_from_tokens:
            self._known.learn(g.name, len(g.sequence.tokens), token)

    def count_tokens(self, g: Generation, n_new: int, since: float | None, now: float) -> None:
        """`n_new` tokens came; the one before them at `since`, or they are the first."""
        if g.is_ours:
            self._metrics.ahead_tokens += n_new
            return
        self._metrics.generated_tokens += n_new
        if n_new and since is None:
            self._metrics.first_token_seconds.observe(max(0.0, now - g.submitted))
        elif since is not None:
            for _ in range(n_new):
                self._metrics.token_seconds.observe(max(0.0, now - since) / n_new)

    def expire(self) -> list[Emitted]:
        """End those whose time is over."""
        now = self._clock()
        events: list[Emitted] = []
        for g in [g for g in self._under_way.values() if g.is_late(now)]:
            if g.n_generated:
                events += self.end(g, "length", last_text=g.text.finish(), how="deadline")
            else:
                error = DeadlineExceeded(
                    f"nothing could be generated within {g.request.deadline:g} s",
                    hint="the server is busy: try again, or allow more time",
                )
                events += self.end(g, "error", error, how="deadline")
        return events

    def end(
        self,
        g: Generation,
        reason: FinishReason,
        error: TurboPilotError | None = None,
        *,
        last_text: str = "",
        how: str = "",
    ) -> list[Emitted]:
        """The one way out for a request that has begun."""
        s = g.sequence
        del self._under_way[s.id]
        if self._named.get(g.request.supersedes) == s.id:
            del self._named[g.request.supersedes]
        if g.is_scheduled:
            self._leave(s)
        if g.draft:
            g.draft.end()
        if g.is_ours:
            return []
        self._metrics.finish(how or reason)
        if reason in ("stop", "length") and g.n_generated and g.follows_from_tokens:
            self._last = g
        events: list[Emitted] = [(s.id, TextDelta(last_text))] if last_text else []
        return [*events, (s.id, Finished(reason, g.usage, error, g.text.stop_string))]

    def end_all(self, error: TurboPilotError | None) -> list[Emitted]:
        """End everything: with the error, or as cancelled where there is none."""
        reason: FinishReason = "error" if error else "cancelled"
        return [e for g in tuple(self._under_way.values()) for e in self.end(g, reason, error)]

    def check_integrity(self) -> None:
        """Raise AssertionError where the books do not balance."""
        assert all(i in self._under_way for i in self._named.values())
        assert all(g.is_scheduled for g in self._under_way.values())
