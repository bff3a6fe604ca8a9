"""What is asked of the engine and what it answers: values and events. Imports nothing but the errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from turbopilot.errors import TurboPilotError

FinishReason: TypeAlias = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen.

    The penalties follow OpenAI's (`frequency_penalty`, `presence_penalty`: subtracted from the logits)
    and llama.cpp's (`repeat_penalty`: divides positive logits, multiplies negative ones).

    Attributes:
        temperature: 0 is greedy: always the likeliest token.
        top_p: sample among the likeliest tokens that together have this probability; 1 is off.
        top_k: sample among this many tokens; 0 is off.
        seed: makes the choices repeatable; None takes the server's next seed.
        stream: which of several choices of one seed this is, so that they differ.
    """

    temperature: float = 0.2
    top_p: float = 0.1
    top_k: int = 0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    stream: int = 0

    @property
    def penalizes(self) -> bool:
        """Whether any penalty changes the logits."""
        return (
            self.repeat_penalty != 1.0
            or self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
        )


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate.

    Attributes:
        prompt: token ids, at least one.
        max_tokens: most tokens to generate; with the prompt it must fit into the context.
        stop: generation ends where one of these appears; the text ends before it.
        sampling: how tokens are chosen.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `cached_tokens` of the prompt were in the KV cache already."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that is certain: no later token can take it back. Never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The one terminal event of every accepted request; `error` is set where the reason is "error"."""

    reason: FinishReason
    usage: Usage
    error: TurboPilotError | None = None


Event: TypeAlias = "TextDelta | Finished"
