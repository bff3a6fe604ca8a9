"""Requests to the engine, and the events that it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

from serve.adapters import AdapterSet
from serve.decoder import Constraint
from turbopilot.base.errors import TurboPilotError

if TYPE_CHECKING:
    from serve.sampling.healing import Healing

FinishReason: TypeAlias = Literal["stop", "length", "cancelled", "error"]

# Outside this range, dividing logits by the temperature could overflow or underflow. Below it, only the most likely
# token has any probability; above it, all tokens are equally likely.
COLDEST = 1e-6
HOTTEST = 1e30


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters: how the next token is chosen.

    `frequency_penalty` and `presence_penalty` are subtracted from the logits, as in OpenAI's API; `repeat_penalty`
    divides positive logits and multiplies negative ones, as in llama.cpp.

    Attributes:
        temperature: 0 is greedy: always the most likely token.
        top_p: sample among the most likely tokens that together have this probability; 1 is off.
        top_k: sample among this many most likely tokens; 0 is off.
        min_p: sample among tokens with at least this share of the most likely token's probability; 0 is off.
        repeat_penalty: 1 is off.
        repeat_last_n: number of preceding tokens that the penalties apply to; 0 is none, -1 all.
        logit_bias: (token id, amount added to its logit) pairs; minus infinity forbids the token.
        schema: JSON schema that the text must fit; "" is off.
        infill: use llama.cpp's sampler for fill-in-the-middle, which ends the text if the end-of-generation tokens
            together are likely.
        seed: makes the choices repeatable; None takes the server's next seed.
        stream: index of the choice among those with the same seed, so that they differ.
    """

    temperature: float = 0.2
    top_p: float = 0.1
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    schema: str = ""
    infill: bool = False
    seed: int | None = None
    stream: int = 0

    @property
    def penalizes(self) -> bool:
        """Whether any penalty changes the logits."""
        return self.repeat_last_n != 0 and (
            self.repeat_penalty != 1.0
            or self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
        )

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the next token is always the model's most likely one, so it depends only on the tokens before it."""
        return (
            (self.temperature < COLDEST or self.top_k == 1)
            and not self.penalizes
            and not self.logit_bias
            and not self.schema
            and not self.infill
        )


@dataclass(frozen=True, slots=True)
class StopRules:
    """Rules that end a completion before `max_tokens`.

    Attributes:
        strings: end before the first of these strings.
        single_line: end after the first line that is not blank.
        n_indent: end before a line that is indented by fewer columns than this; 0 is off.
        follows: end before the completion repeats this text, the beginning of the suffix; "" is off.
        loops: end before lines or a phrase are repeated once too often (see `serve.text.loops`).
        line: text before the cursor in its line, which may be the beginning of a repeated line.
    """

    strings: tuple[str, ...] = ()
    single_line: bool = False
    n_indent: int = 0
    follows: str = ""
    loops: bool = False
    line: str = ""


class Rank(IntEnum):
    """Rank of a sequence. Those of a later rank run only while none of an earlier rank is queued or running.

    A sequence that has to wait returns to the queue. Its slot is free for others, and its tokens stay cached.
    """

    COMPLETION = 0
    WARM_UP = 1  # only fills the KV cache with its prompt
    LOW = 2  # low priority
    AHEAD = 3  # computed ahead, without a client


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate.

    Attributes:
        prompt: token ids, at least one.
        max_tokens: maximum tokens to generate; must fit into the context together with the prompt. 0 only fills the
            KV cache with the prompt.
        n_logprobs: report each token's log probability and those of this many most likely tokens; None reports none.
        scores_prompt: also report the log probabilities of the prompt's tokens; then no cached prefix is used.
        deadline: time limit in seconds. The request then ends with the text so far, or with an error if there is none.
        predict_time: time limit in seconds from the first token; the request ends after it, once a line is complete
            (llama.cpp's `t_max_predict_ms`).
        reports_usage: report the token counts and times so far with each part of the text.
        supersedes: session whose earlier requests this request ends; "" is none.
        window: index of the first prompt token of the text around the cursor. Cached text from before this window may
            precede it in the KV cache.
        context: tokens outside the prompt that the completion may repeat, such as the rest of the file. They are only
            a source of draft tokens.
        prediction: text that the completion is expected to repeat, with changes; only a source of draft tokens.
        constraint: constraint of the sampling's schema in its initial state; used by this request alone.
        healing: text after the prompt that the completion re-spells; None is none. Its tokens count as the prompt's.
        adapters: LoRA adapters that compute it.
        file: name of the edited file, which routes it to an upstream; "" if unknown.
        is_low: whether it has low priority.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    stop: StopRules = field(default_factory=StopRules)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    n_logprobs: int | None = None
    scores_prompt: bool = False
    deadline: float | None = None
    predict_time: float | None = None
    reports_usage: bool = False
    supersedes: str = ""
    window: int = 0
    context: tuple[int, ...] = ()
    prediction: str = ""
    constraint: Constraint | None = None
    healing: Healing | None = None
    adapters: AdapterSet = ()
    file: str = ""
    is_low: bool = False

    @property
    def rank(self) -> Rank:
        """Rank among the requests of an engine."""
        if self.is_low:
            return Rank.LOW
        only_warms = self.max_tokens == 0 and not self.scores_prompt
        return Rank.WARM_UP if only_warms else Rank.COMPLETION

    @property
    def n_healed(self) -> int:
        """Number of the prompt's tokens that the completion re-spells."""
        return len(self.healing.tokens) if self.healing else 0

    @property
    def n_most(self) -> int:
        """Maximum number of generated tokens, with those that re-spell the end of the prompt."""
        return self.max_tokens + self.n_healed

    @property
    def n_prompt(self) -> int:
        """Number of the prompt's tokens, with those that the completion re-spells."""
        return len(self.prompt) + self.n_healed


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts.

    Attributes:
        completion_tokens: generated tokens, including those cut off by a stop string.
        cached_tokens: prompt tokens that were in the KV cache.
        drafted_tokens: draft tokens that the model checked.
        accepted_tokens: draft tokens that the model confirmed.
        predicted_tokens: those of `drafted_tokens` that came from the client's prediction.
        confirmed_tokens: those of `accepted_tokens` that came from the client's prediction.
        prompt_seconds: from the start of prefill to the first token.
        predict_seconds: from the first token to the last.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prompt_seconds: float = 0.0
    predict_seconds: float = 0.0
    predicted_tokens: int = 0
    confirmed_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its log probability (base e) before sampling parameters; NaN for a prompt's first token."""

    id: int
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """A token of the text, and the most likely tokens at its position, in descending order."""

    token: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next part of the text, and its tokens if log probabilities are requested.

    Later tokens cannot change it. `text` is empty only if there are `tokens`. `usage` is set if the request reports it.
    """

    text: str
    tokens: tuple[ChosenToken, ...] = ()
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class PromptScored:
    """Log probabilities of the next prompt tokens. All of these events come before any text."""

    tokens: tuple[ChosenToken, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a request; each accepted request has exactly one.

    Attributes:
        reason: why the request ended; "length" also means that the deadline passed.
        error: set if `reason` is "error".
        stop_string: the stop string that ended the text, or "".
    """

    reason: FinishReason
    usage: Usage
    error: TurboPilotError | None = None
    stop_string: str = ""


Event: TypeAlias = "TextDelta | PromptScored | Finished"
