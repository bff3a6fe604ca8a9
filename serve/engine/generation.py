"""One request under way: its tokens, how the next is chosen, what is certain of its text. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from serve.decoder import Decoder, Logits
from serve.drafting import Draft
from serve.engine.answer_cache import chain, chain_all
from serve.engine.sequence import Sequence
from serve.request import (
    ChosenToken,
    FinishReason,
    GenerationRequest,
    PromptScored,
    TextDelta,
    TokenLogprob,
    Usage,
)
from serve.sampling import Sampler, logprobs
from serve.text import TextStream


@dataclass(frozen=True, slots=True)
class Taken:
    """What a token made certain: a delta, perhaps nothing; and, where it was the last, why."""

    delta: TextDelta | None
    ended: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Advance:
    """What a step made certain: deltas in order; how many guesses were right; and, if it ended, why."""

    deltas: tuple[TextDelta, ...]
    n_right: int
    ended: FinishReason | None


@dataclass(slots=True)
class Generation:
    """A request under way.

    Attributes:
        request: what is asked for.
        sequence: its tokens, and how many of them are computed.
        sampler: chooses them.
        text: what of their bytes may be shown.
        draft: guesses what comes next; None guesses nothing.
        submitted: the clock when it came.
        name: of the sequence's tokens, as `known.chain` makes it.
        n_cached: prompt tokens that were in the KV cache.
        n_drafted, n_accepted: guesses computed, and right.
        n_judged: tokens of the prompt whose log probabilities were told.
        began: the clock when it began to run.
        first_at, last_at: the clock at its first and its last token.
        has_line: whether a line has been completed.
        is_ours: nobody asked for it: what is learned by it is all that is wanted.
        is_scheduled: whether the scheduler has its sequence.
    """

    request: GenerationRequest
    sequence: Sequence
    sampler: Sampler
    text: TextStream
    draft: Draft | None
    submitted: float
    name: int = 0
    n_cached: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    n_judged: int = 0
    began: float | None = None
    first_at: float | None = None
    last_at: float = 0.0
    has_line: bool = False
    is_ours: bool = False
    is_scheduled: bool = False

    def __post_init__(self) -> None:
        self.name = chain_all(self.request.prompt)

    @property
    def n_generated(self) -> int:
        """Tokens after the prompt."""
        return len(self.sequence.tokens) - len(self.request.prompt)

    @property
    def only_warms(self) -> bool:
        """Whether no token is wanted, only a warm cache."""
        return self.request.max_tokens == 0

    @property
    def follows_from_tokens(self) -> bool:
        """Whether its next token is a function of those before it, and nothing else is asked about it."""
        return self.request.sampling.is_plain_greedy and self.request.n_logprobs is None

    @property
    def usage(self) -> Usage:
        """What it has cost so far."""
        return Usage(
            len(self.request.prompt),
            self.n_generated,
            self.n_cached,
            self.n_drafted,
            self.n_accepted,
            *self._seconds(),
        )

    def _seconds(self) -> tuple[float, float]:
        """How long the prompt took, and the rest. A clock that jumps makes neither negative."""
        if self.began is None or self.first_at is None:
            return 0.0, 0.0
        return max(0.0, self.first_at - self.began), max(0.0, self.last_at - self.first_at)

    def is_late(self, now: float) -> bool:
        """Whether its deadline has passed."""
        deadline = self.request.deadline
        return deadline is not None and now - self.submitted >= deadline

    def advance(
        self,
        rows: Logits,
        guesses: list[int],
        decoder: Decoder,
        now: float,
        learn: Callable[[Generation, int], None],
    ) -> Advance:
        """Choose the next tokens: one, and one more for each guess that turns out right.

        Each is chosen as if there had been no guess, so guesses change nothing but the time.

        Args:
            rows: logits after the last token, and after each guess: (1 + guesses, n_vocab).
            guesses: what was thought to follow.
            decoder: for the tokens' bytes.
            now: the clock.
            learn: told of each token before it is taken.

        Raises:
            DecoderFailed: the logits are no numbers.
        """
        deltas = []
        n_right = 0
        for i, logits in enumerate(rows):
            token = self.sampler.pick(logits, self.sequence.tokens)
            self.sampler.accept(token)
            learn(self, token)
            taken = self.take(token, logits, decoder, now)
            if taken.delta:
                deltas.append(taken.delta)
            if i == len(guesses) or token != guesses[i] or decoder.is_eog(token):
                break
            n_right += 1
            if taken.ended:
                break
        if self.draft:
            self.draft.result(len(guesses), n_right)
        self.n_drafted += len(guesses)
        self.n_accepted += n_right
        return Advance(tuple(deltas), n_right, taken.ended)

    def score(self, rows: Logits, start: int, decoder: Decoder) -> PromptScored:
        """What the model thinks of the prompt's tokens after `start`; before the second comes the first, unjudged.

        Args:
            rows: logits after token `start` and those behind it: (n, n_vocab).
            start: the first token that was computed.
            decoder: for the tokens' bytes.
        """
        prompt, n = self.request.prompt, self.request.n_logprobs or 0
        told = []
        if not self.n_judged:
            told.append(
                ChosenToken(TokenLogprob(prompt[0], decoder.piece(prompt[0]), math.nan), ())
            )
            self.n_judged = 1
        # What was told before the KV cache was lost is not told again.
        for row in rows[self.n_judged - start - 1 :]:
            told.append(logprobs(row, prompt[self.n_judged], n, decoder.piece))
            self.n_judged += 1
        return PromptScored(tuple(told))

    def take(self, token: int, logits: Logits | None, decoder: Decoder, now: float) -> Taken:
        """Add a token, or end with it. `logits` are those that it was chosen from, where somebody asks."""
        chosen: tuple[ChosenToken, ...] = ()
        if self.request.n_logprobs is not None and logits is not None:
            chosen = (logprobs(logits, token, self.request.n_logprobs, decoder.piece),)
        if decoder.is_eog(token):
            return Taken(_delta(self.text.finish()), "stop")
        self.sequence.tokens.append(token)
        self.name = chain(self.name, token)
        if self.draft:
            self.draft.append(token)
        if self.first_at is None:
            self.first_at = now
        self.last_at = now
        data = decoder.piece(token)
        self.has_line = self.has_line or b"\n" in data
        text = self.text.feed(data)
        if self.text.stopped:
            return Taken(_delta(text, chosen), "stop")
        if self.n_generated >= self.request.max_tokens or self._has_no_time(now):
            return Taken(_delta(text + self.text.finish(), chosen), "length")
        return Taken(_delta(text, chosen))

    def _has_no_time(self, now: float) -> bool:
        limit = self.request.predict_time
        return (
            limit is not None
            and self.has_line
            and self.first_at is not None
            and now - self.first_at >= limit
        )


def _delta(text: str, chosen: tuple[ChosenToken, ...] = ()) -> TextDelta | None:
    return TextDelta(text, chosen) if text or chosen else None
