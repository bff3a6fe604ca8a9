"""State of one request in the engine: its tokens, its part of a batch, its sampler and its text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from serve.decoder import BatchItem, Decoder, Logits
from serve.drafting import Draft, DraftCounts
from serve.engine.answer_cache import name_of
from serve.request import (
    ChosenToken,
    FinishReason,
    GenerationRequest,
    PromptScored,
    TextDelta,
    Usage,
)
from serve.sampling import Sampler, logprobs, unscored
from serve.sampling.healing import Spelling, cut_to
from serve.text import TextStream

WAITING = -1


@dataclass(slots=True, eq=False)
class Sequence:
    """One request, and its place in the KV cache.

    Attributes:
        drafting: proposes draft tokens; None disables drafts.
        submitted: time at which the request was submitted.
        is_ours: whether the engine computes it ahead, without a client; its tokens go only to the answer cache.
        tokens: prompt and generated tokens; cached tokens may precede the prompt (see `serve.engine.reuse`).
        n_prompt: how many of `tokens` are not generated.
        name: name of the prompt and the generated tokens.
        idles: whether it only warms the cache, which happens if no other request needs the step.
        slot: the slot in which it runs, or WAITING.
        n_past: how many of `tokens` are in the KV cache.
        stop: value of `n_past` after the current step.
        checkpoint: position at which a step ends, because the state there will be stored; 0 is none.
        draft: draft tokens after `tokens`, computed together with the last of them.
        is_suspect: whether it was in a failed batch and has not been computed alone since.
        n_cached: prompt tokens found in the KV cache.
        n_restored: tokens restored from the prefix cache.
        n_moved: tokens reused at other positions.
        n_reported: prompt tokens whose log probabilities were reported.
        spelling: text before the cursor that the completion has still to re-spell.
        began: time at which it was admitted to a slot.
        first_at, last_at: times of its first and its latest token.
        has_line: whether the generated text contains a newline.
        is_scheduled: whether it was added to the scheduler.
        ended: finish reason, once no more tokens are needed.
    """

    id: int
    request: GenerationRequest
    sampler: Sampler
    drafting: Draft | None = None
    submitted: float = 0.0
    is_ours: bool = False
    text: TextStream = field(init=False)
    tokens: list[int] = field(init=False)
    n_prompt: int = field(init=False)
    name: int = field(init=False)
    idles: bool = field(init=False)
    slot: int = WAITING
    n_past: int = 0
    stop: int = 0
    checkpoint: int = 0
    draft: list[int] = field(default_factory=list)
    is_suspect: bool = False
    n_cached: int = 0
    n_restored: int = 0
    n_moved: int = 0
    n_reported: int = 0
    spelling: Spelling = field(init=False)
    began: float | None = None
    first_at: float | None = None
    last_at: float = 0.0
    has_line: bool = False
    is_scheduled: bool = False
    ended: FinishReason | None = None

    def __post_init__(self) -> None:
        self.text = TextStream(self.request.stop)
        self.tokens = list(self.request.prompt)
        self.n_prompt = len(self.tokens)
        self.name = name_of(self.request.prompt, hash(self.request.adapters))
        self.spelling = Spelling(self.request.healing)
        self.idles = self.only_warms and not self.request.scores_prompt

    @property
    def n_reserved(self) -> int:
        """Maximum number of cells that the sequence may need."""
        return self.n_prompt + self.request.n_most

    @property
    def n_scored(self) -> int:
        """Number of leading prompt tokens that need logits, to score the token after each."""
        return len(self.request.prompt) - 1 if self.request.scores_prompt else 0

    @property
    def n_pending(self) -> int:
        """Number of tokens that are not in the KV cache yet."""
        return len(self.tokens) - self.n_past

    @property
    def n_piece(self) -> int:
        """Number of tokens that one step may compute: those up to the checkpoint, or all pending ones."""
        return (self.checkpoint or len(self.tokens)) - self.n_past

    @property
    def generates(self) -> bool:
        """Whether the sequence decodes: all tokens but the last are in the KV cache."""
        return self.n_pending == 1

    @property
    def is_complete(self) -> bool:
        """Whether the next token can be chosen after the current step."""
        return self.stop == len(self.tokens)

    @property
    def n_to_score(self) -> int:
        """Number of tokens in the current step that need logits to score the prompt."""
        return max(0, min(self.stop, self.n_scored) - self.n_past)

    def batch(self) -> list[BatchItem]:
        """Return the sequence's part of the batch, with logits for each token to be chosen or scored."""
        scored = self.n_past + self.n_to_score
        last = self.stop - 1 if self.is_complete and not self.only_warms else -1
        items = [
            BatchItem(self.tokens[i], i, self.slot, i < scored or i == last)
            for i in range(self.n_past, self.stop)
        ]
        items += [BatchItem(t, i, self.slot, True) for i, t in enumerate(self.draft, self.stop)]
        return items

    @property
    def n_generated(self) -> int:
        """Number of generated tokens, with those that re-spelled the end of the prompt."""
        return len(self.tokens) - self.n_prompt

    @property
    def n_new(self) -> int:
        """Number of tokens of the completion."""
        return self.n_generated - self.spelling.n_tokens

    @property
    def n_left(self) -> int:
        """Number of tokens that may still be generated."""
        return min(self.request.max_tokens - self.n_new, self.request.n_most - self.n_generated)

    @property
    def n_named(self) -> int:
        """Number of tokens that `name` stands for: the request's prompt, and the generated tokens."""
        return len(self.request.prompt) + self.n_generated

    @property
    def answer_name(self) -> int:
        """Name in the answer cache: the next token depends on the bytes to re-spell, too."""
        return hash((self.name, self.spelling.rest)) if self.spelling.rest else self.name

    @property
    def n_prompt_held(self) -> int:
        """Number of the request's prompt tokens in the KV cache."""
        n = len(self.request.prompt)
        return max(0, min(self.n_past - self.n_prompt + n, n))

    def extend(self, tokens: list[int]) -> None:
        """Replace `tokens` by the same with cached tokens in front."""
        self.n_prompt = len(tokens) - self.n_generated
        self.tokens = tokens

    @property
    def only_warms(self) -> bool:
        """Whether the request only warms the cache and generates no tokens."""
        return self.request.max_tokens == 0

    @property
    def follows_from_tokens(self) -> bool:
        """Whether the next token depends only on the preceding tokens, and no log probabilities are requested."""
        return self.request.sampling.is_plain_greedy and self.request.n_logprobs is None

    @property
    def usage(self) -> Usage:
        """Token counts and times so far; a time is 0 if the clock jumped back."""
        prompt_seconds = predict_seconds = 0.0
        if self.began is not None and self.first_at is not None:
            prompt_seconds = max(0.0, self.first_at - self.began)
            predict_seconds = max(0.0, self.last_at - self.first_at)
        queued = None if self.began is None else max(0.0, self.began - self.submitted)
        drafts = self.drafting.counts if self.drafting else DraftCounts()
        return Usage(
            self.request.n_prompt, self.n_new, self.n_cached, drafts.checked, drafts.accepted,
            prompt_seconds, predict_seconds, drafts.predicted, drafts.confirmed, queued,
        )  # fmt: skip

    def is_late(self, now: float) -> bool:
        """Return whether the deadline has passed."""
        return self.request.deadline is not None and now - self.submitted >= self.request.deadline

    def advance(
        self,
        rows: Logits,
        decoder: Decoder,
        now: float,
        learn: Callable[[Sequence, int], None],
    ) -> tuple[list[TextDelta], int]:
        """Choose the next tokens: one, and one more for each accepted draft token.

        Each token is chosen as it would be without a draft, so drafts affect only the speed. Set `ended` if no more
        tokens are needed.

        Args:
            rows: logits after the last token, and after each computed draft token: (1 + drafted, n_vocab).
            decoder: gives the tokens' bytes.
            now: current time.
            learn: called with each token before it is added.

        Returns:
            The text that became certain, and the number of accepted draft tokens.

        Raises:
            UnusableLogits: logits are NaN or infinite.
        """
        n_drafted, n_right, deltas = len(rows) - 1, 0, []
        for i, logits in enumerate(rows):
            token = self.sampler.pick(self.spelling.mask(logits), self.tokens)
            self.sampler.accept(token)
            learn(self, token)
            if delta := self.take(token, logits, decoder, now):
                deltas.append(delta)
            if i == n_drafted or token != self.draft[i] or decoder.is_eog(token):
                break
            n_right += 1
            if self.ended:
                break
        if self.drafting:
            self.drafting.result(n_drafted, n_right)
        return deltas, n_right

    def score(self, rows: Logits, start: int, decoder: Decoder) -> PromptScored:
        """Score the prompt's tokens after `start`; the prompt's first token is reported with NaN.

        Args:
            rows: logits after token `start` and the following ones: (n, n_vocab).
            start: index of the first token of the step.
            decoder: gives the tokens' bytes.
        """
        prompt, n = self.request.prompt, self.request.n_logprobs or 0
        scored = [] if self.n_reported else [unscored(prompt[0], decoder.piece)]
        # Tokens reported before the KV cache was lost are not reported again.
        at = max(1, self.n_reported)
        for token, row in zip(prompt[at:], rows[at - start - 1 :], strict=False):
            scored.append(logprobs(row, token, n, decoder.piece))
        self.n_reported += len(scored)
        return PromptScored(tuple(scored))

    def take(
        self, token: int, logits: Logits | None, decoder: Decoder, now: float
    ) -> TextDelta | None:
        """Add a token; return the text that became certain, if any. Set `ended` if the token is the last one.

        `logits` are the logits from which the token was chosen, or None if it comes from the answer cache.
        """
        chosen: tuple[ChosenToken, ...] = ()
        if self.request.n_logprobs is not None and logits is not None:
            chosen = (logprobs(logits, token, self.request.n_logprobs, decoder.piece),)
        if decoder.is_eog(token):
            self.ended, chosen, text = "stop", (), self.text.finish()
        else:
            piece = decoder.piece(token)
            if (data := self.spelling.feed(piece)) != piece:
                chosen = cut_to(chosen, data)
            self._append(token, data, now)
            text = self.text.feed(data)
            if self.text.stopped:
                self.ended = "stop"
            elif self.n_left < 1 or self._has_no_time(now):
                self.ended = "length"
                text += self.text.finish()
        return TextDelta(text, chosen) if text or chosen else None

    def _append(self, token: int, data: bytes, now: float) -> None:
        self.tokens.append(token)
        self.name = name_of((token,), self.name)
        if self.drafting:
            self.drafting.append(token)
        if self.first_at is None and self.n_new:
            self.first_at = now
        self.last_at, self.has_line = now, self.has_line or b"\n" in data

    def _has_no_time(self, now: float) -> bool:
        if self.request.predict_time is None or self.first_at is None or not self.has_line:
            return False
        return now - self.first_at >= self.request.predict_time
