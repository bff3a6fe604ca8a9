"""Requests to the engine, and its events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from serve.decoder import Constraint
from turbopilot.base.errors import TurboPilotError

FinishReason: TypeAlias = Literal["stop", "length", "cancelled", "error"]

# Outside of these, dividing by the temperature could overflow or underflow. Below, only the likeliest token is left
# anyway; above, all tokens are equally likely.
COLDEST = 1e-6
HOTTEST = 1e30


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen.

    `frequency_penalty` and `presence_penalty` are subtracted from the logits, as OpenAI's; `repeat_penalty` divides
    positive logits and multiplies negative ones, as llama.cpp's.

    Attributes:
        temperature: 0 is greedy: always the likeliest token.
        top_p: sample among the likeliest tokens that together have this probability; 1 is off.
        top_k: sample among this many tokens; 0 is off.
        min_p: sample among tokens at least this probable relative to the likeliest; 0 is off.
        repeat_penalty: 1 is off.
        repeat_last_n: how many tokens back the penalties look; 0 is none, -1 all.
        logit_bias: (token id, what is added to its logit) pairs; minus infinity forbids the token.
        schema: JSON schema that the text must fit; "" is off.
        infill: llama.cpp's sampler for fill-in-the-middle, which ends where ends are likely together.
        seed: makes the choices repeatable; None takes the server's next seed.
        stream: index among the choices of one seed, so that they differ.
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
        """Whether the next token is the likeliest by the model alone, so it follows from the tokens before it."""
        return (
            (self.temperature < COLDEST or self.top_k == 1)
            and not self.penalizes
            and not self.logit_bias
            and not self.schema
            and not self.infill
        )


@dataclass(frozen=True, slots=True)
class StopRules:
    """Where a completion ends before `max_tokens`.

    Attributes:
        strings: before the first of these.
        single_line: at the end of the first line that is not blank.
        n_indent: before a line that is indented less than this many columns; 0 is off.
        follows: before it repeats this text, the suffix.
    """

    strings: tuple[str, ...] = ()
    single_line: bool = False
    n_indent: int = 0
    follows: str = ""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate.

    Attributes:
        prompt: token ids, at least one.
        max_tokens: most tokens to generate; must fit into the context with the prompt. 0 only warms the cache, while
            no other request needs the engine.
        n_logprobs: report each token's log probability and those of this many likeliest; None reports none.
        scores_prompt: report those of the prompt's tokens, too; then no prefix is taken from the cache.
        deadline: seconds after which it ends: with the text so far, or as an error if there is none.
        predict_time: seconds from the first token after which it ends, once a line is complete (llama.cpp's
            `t_max_predict_ms`).
        supersedes: name of a session, of which an earlier request ends now; "" is none.
        context: tokens beside the prompt that the completion may repeat, such as the rest of the file.
        constraint: of the sampling's schema, at its start and for this request alone.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    stop: StopRules = field(default_factory=StopRules)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    n_logprobs: int | None = None
    scores_prompt: bool = False
    deadline: float | None = None
    predict_time: float | None = None
    supersedes: str = ""
    context: tuple[int, ...] = ()
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts.

    Attributes:
        completion_tokens: generated, including what a stop string cut off.
        cached_tokens: prompt tokens that were in the KV cache.
        drafted_tokens: draft tokens that were computed.
        accepted_tokens: draft tokens that were right.
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


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its natural log probability before any sampling parameter; NaN for a prompt's first token."""

    id: int
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """A token of the text, and the likeliest tokens at its place, likeliest first."""

    token: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that no later token can change, and its tokens if log probabilities are asked for.

    `text` is empty only if there are `tokens`.
    """

    text: str
    tokens: tuple[ChosenToken, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptScored:
    """Log probabilities of the prompt's next tokens; all of them come before any text."""

    tokens: tuple[ChosenToken, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The one terminal event of every accepted request.

    Attributes:
        reason: "length" after a deadline, too.
        error: set if the reason is "error".
        stop_string: the one that ended the text, or "".
    """

    reason: FinishReason
    usage: Usage
    error: TurboPilotError | None = None
    stop_string: str = ""


Event: TypeAlias = "TextDelta | PromptScored | Finished"
