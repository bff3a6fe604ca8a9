"""What is asked of the engine and what it answers: values and events. Imports nothing but the errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from turbopilot.base.errors import TurboPilotError

FinishReason: TypeAlias = Literal["stop", "length", "cancelled", "error"]

# Below this, dividing by the temperature could overflow; nothing but the likeliest token is left anyway.
COLDEST = 1e-6
# Above this, multiplying by it could overflow, or dividing come to nothing; all tokens are as likely anyway.
HOTTEST = 1e30


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen.

    The penalties follow OpenAI's (`frequency_penalty`, `presence_penalty`: subtracted from the logits)
    and llama.cpp's (`repeat_penalty`: divides positive logits, multiplies negative ones).

    Attributes:
        temperature: 0 is greedy: always the likeliest token.
        top_p: sample among the likeliest tokens that together have this probability; 1 is off.
        top_k: sample among this many tokens; 0 is off.
        min_p: sample among tokens at least this probable in relation to the likeliest; 0 is off.
        repeat_penalty: see above; 1 is off.
        repeat_last_n: how many tokens back the penalties look; 0 is none, -1 all.
        logit_bias: (token id, what is added to its logit) pairs; minus infinity forbids the token.
        grammar: GBNF made of a JSON schema that the text must follow; "" is off.
        infill: llama.cpp's sampler for fill-in-the-middle, which ends where ends are likely together.
        seed: makes the choices repeatable; None takes the server's next seed.
        stream: which of several choices of one seed this is, so that they differ.
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
    grammar: str = ""
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
        """Whether the next token is the likeliest by the model alone: it follows from the tokens before it."""
        return (
            (self.temperature < COLDEST or self.top_k == 1)
            and not self.penalizes
            and not self.logit_bias
            and not self.grammar
            and not self.infill
        )


@dataclass(frozen=True, slots=True)
class StopRules:
    """Where a suggestion ends before `max_tokens`.

    Attributes:
        strings: generation ends where one of these appears; the text ends before it.
        single_line: it ends at the end of the first line that is not blank.
        n_indent: it ends before a line that is indented less than this many columns; 0 is off.
        follows: the text after the cursor: a suggestion that comes to repeat it ends before the repetition.
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
        max_tokens: most tokens to generate; with the prompt it must fit into the context. 0 only warms the
            cache, after everybody else's work.
        stop: where it ends earlier.
        sampling: how tokens are chosen.
        n_logprobs: tell each token's log probability and those of this many likeliest; None tells none.
        scores_prompt: tell those of the prompt's tokens, too; nothing of it is taken from the cache then.
        deadline: seconds after which it ends: with what there is, or as an error where there is nothing.
        predict_time: seconds from the first token after which it ends, once a line is complete (llama.cpp's
            `t_max_predict_ms`).
        supersedes: ends what still runs or waits of an earlier request of this name; "" is no name.
        context: tokens that the suggestion may repeat although the prompt lacks them, as the rest of the file.
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


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts.

    Attributes:
        prompt_tokens: of the prompt.
        completion_tokens: generated, what a stop string cut off included.
        cached_tokens: of the prompt, those that were in the KV cache already.
        drafted_tokens: guessed ahead and computed together.
        accepted_tokens: of these, the ones that were right.
        prompt_seconds: from its beginning to run to its first token.
        predict_seconds: from there to its last token.
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
    """A token with its log probability (natural logarithm), by the model alone: before any sampling parameter.

    Nothing comes before a prompt's first token: its is no number (NaN).
    """

    id: int
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """A token of the text and the likeliest ones in its place, likeliest first."""

    token: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that is certain: no later token can take it back.

    Attributes:
        text: never empty, but where `tokens` are told.
        tokens: those generated since the last delta, where the request asks for log probabilities.
    """

    text: str
    tokens: tuple[ChosenToken, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptScored:
    """What the model thinks of the prompt's next tokens; all of them come before any text."""

    tokens: tuple[ChosenToken, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The one terminal event of every accepted request.

    Attributes:
        reason: why it ended; a deadline counts as "length".
        usage: what it cost.
        error: set where the reason is "error".
        stop_string: the one that ended it; "" where none did.
    """

    reason: FinishReason
    usage: Usage
    error: TurboPilotError | None = None
    stop_string: str = ""


Event: TypeAlias = "TextDelta | PromptScored | Finished"
