"""Differences between engines: the route, the body of a request, the events of its response, and what it lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

from serve.decoder import Tokenizer
from serve.request import ChosenToken, GenerationRequest, SamplingParams
from serve.sampling.healing import Healing
from turbopilot.base.errors import InvalidRequest

Event: TypeAlias = Mapping[str, Any]
END: Final[Event] = {}  # OpenAI's "data: [DONE]"


class NotUnderstood(Exception):
    """An upstream's answer is not what its engine sends."""


class EngineError(Exception):
    """An upstream reported an error in the middle of its answer."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Facts that an upstream has reported about itself.

    Attributes:
        model: name of the model for its requests.
        n_ctx: most tokens of prompt and completion; None if it is not reported.
        slots: requests that it computes at once.
    """

    engine: str
    model: str = ""
    n_ctx: int | None = None
    slots: int = 4


@dataclass(frozen=True, slots=True)
class EnginePiece:
    """A part of the response.

    Attributes:
        text: text that follows; special tokens have none.
        n_tokens: number of its tokens.
        n_total: number of all tokens so far, if the engine reports it.
        token_ids: its tokens if the engine reports them; those of an incomplete character may be missing.
        chosen: tokens with log probabilities, if requested.
        n_cached: prompt tokens that were in the engine's KV cache; None if it is not reported here.
        prompt_seconds: time of prefill; None if it is not reported here.
        finish: why the text ended; "" if it has not.
    """

    text: str = ""
    n_tokens: int = 0
    n_total: int | None = None
    token_ids: tuple[int, ...] = ()
    chosen: tuple[ChosenToken, ...] = ()
    n_cached: int | None = None
    prompt_seconds: float | None = None
    finish: str = ""


@dataclass(frozen=True, slots=True)
class EngineCall:
    """A request in the form that a dialect writes.

    Attributes:
        prompt: token ids, or text if the engine takes no token ids.
        max_tokens: at least 1.
        respells: tokens after the prompt that the completion re-spells, for an engine that can.
        holds_to: text that the completion must re-spell, for an engine that can be held to it; None is none.
        ends: tokens that end generation, beside the engine's own.
        seed: None lets the engine choose.
    """

    request: GenerationRequest
    prompt: tuple[int, ...] | str
    max_tokens: int
    respells: tuple[int, ...] = ()
    holds_to: Healing | None = None
    ends: tuple[int, ...] = ()
    seed: int | None = None


class EngineDialect:
    """An engine's API.

    Attributes:
        engine: the engine's name.
        path: route of completions.
        takes_ids: whether the prompt may be token ids.
        heals: whether the engine can re-spell tokens.
        can: the features that it has; see `needs`.
        tokenize: route and field of its tokenizer, to compare it with ours; "" if it has none.
        health: route whose status is 200 while it is alive.
    """

    engine: ClassVar[str]
    path: ClassVar[str]
    takes_ids: ClassVar[bool] = True
    heals: ClassVar[bool] = False
    can: ClassVar[frozenset[str]] = frozenset()
    tokenize: ClassVar[tuple[str, str]] = ("", "")
    health: ClassVar[str] = "/health"

    def __init__(self, facts: EngineFacts) -> None:
        self.facts = facts

    def body(self, call: EngineCall) -> Mapping[str, Any]:
        """Return the JSON of a request."""
        raise NotImplementedError

    def headers(self, request: GenerationRequest) -> Mapping[str, str]:
        """Return the headers of a request, beside those of all requests."""
        return {}

    def can_hold_to(self, healing: Healing) -> bool:
        """Return whether the engine can be made to re-spell a text, if it does not by itself."""
        return False

    def event(self, line: bytes) -> Event | None:
        """Return the JSON in a line of the response; END for the end, None if the line has none.

        Raises:
            NotUnderstood: the line is not part of such a stream.
        """
        if line.startswith(b"data:"):
            return read_json(line[5:])
        if not line.strip() or line.startswith((b":", b"event:", b"id:", b"retry:")):
            return None
        raise NotUnderstood(f"not an event: {line[:60]!r}")

    def piece(self, event: Event, tokenizer: Tokenizer) -> EnginePiece | None:
        """Return the part of the response in an event; None if it has none.

        Raises:
            EngineError: the event is an error.
            KeyError, TypeError, ValueError, IndexError: the event is not what the engine sends.
        """
        raise NotImplementedError

    def refuse(self, request: GenerationRequest) -> InvalidRequest | None:
        """Return the error of a request that needs what this engine does not have; None if it can be sent."""
        for feature in needs(request):
            if feature not in self.can:
                return InvalidRequest(
                    f"{self.engine} does not support {feature}: leave it out", param=feature
                )
        return None


def read_json(data: bytes) -> Event:
    """Return the object of an event; END for "[DONE]". Raise NotUnderstood if it is none."""
    data = data.strip()
    if data == b"[DONE]":
        return END
    try:
        found = json.loads(data)
    except ValueError:
        raise NotUnderstood(f"not JSON: {data[:60]!r}") from None
    if not isinstance(found, dict) or not found:
        raise NotUnderstood(f"not an object: {data[:60]!r}")
    if error := found.get("error"):
        raise EngineError(error_text(error))
    return found


def error_text(error: Any) -> str:
    """Return the message of an error in any engine's format."""
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("error") or json.dumps(dict(error))
    return str(error)[:300]


def needs(request: GenerationRequest) -> Iterator[str]:
    """Yield the features that a request needs beyond temperature, top_p and a seed, by the fields that ask for them.

    llama.cpp's sampler for fill-in-the-middle is not among them: llama.vim always asks for it, and it only ends some
    completions earlier.
    """
    s = request.sampling
    asked = {
        "echo": request.scores_prompt,
        "json_schema": bool(s.schema),
        "lora": bool(request.adapters),
        "logprobs": request.n_logprobs is not None,
        "logit_bias": bool(s.logit_bias),
        "top_k": s.top_k > 0,
        "min_p": s.min_p > 0,
        "repeat_penalty": s.repeat_penalty != 1.0 and s.repeat_last_n != 0,
    }
    yield from (name for name, is_asked in asked.items() if is_asked)


def bias_of(sampling: SamplingParams, least: float | bool) -> dict[str, float | bool]:
    """Return the bias of each token by its id as text; `least` stands for minus infinity, which JSON has not."""
    return {str(i): least if b == float("-inf") else b for i, b in sampling.logit_bias}


def schema_of(sampling: SamplingParams) -> Mapping[str, Any]:
    """Return the JSON schema of a request, without our options for llguidance."""
    schema: dict[str, Any] = json.loads(sampling.schema)
    schema.pop("x-guidance", None)
    return schema


def prompt_text(tokenizer: Tokenizer, tokens: tuple[int, ...]) -> str:
    """Return a prompt as text in which special tokens are their names.

    The start token is left out, since an engine that takes text adds it, and so is the space that SentencePiece models
    prepend.
    """
    starts = tokenizer.adds_bos and tokens[:1] == (tokenizer.start_token,)
    text = b"".join(map(tokenizer.named_piece, tokens[starts:])).decode(errors="replace")
    return text.removeprefix(" ") if tokenizer.adds_space else text
