"""JSON bodies → typed completions, one function a dialect. Knows nothing of Flask, threads or models.

Lenient where clients differ (unknown fields are ignored, null is absent, any model name is accepted),
strict where silence would mislead: a field of the wrong type is refused by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from serve.request import SamplingParams
from serve.service import Completion
from serve.settings import Defaults
from turbopilot.errors import InvalidRequest

# One request may ask for this many texts. Source: OpenAI's limit on `n`.
MAX_CHOICES = 128
# Stands for "as many tokens as fit"; it is clamped to the context. Ollama's -1 and -2 mean that.
UNLIMITED = 2**31


@dataclass(frozen=True, slots=True)
class OpenAICall:
    """A body of `/v1/completions`."""

    completion: Completion
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class OllamaCall:
    """A body of Ollama's `/api/generate`; `model` is told back as it was given."""

    completion: Completion
    stream: bool
    model: str


@dataclass(frozen=True, slots=True)
class HuggingFaceCall:
    """A body of Hugging Face's text generation; `inputs` is repeated before the text where wanted."""

    completion: Completion
    inputs: str
    return_full_text: bool


class Fields:
    """Typed reads of a JSON object. A wrong type raises InvalidRequest with the field's name.

    Args:
        values: the object.
        path: names it in errors, as "options." does.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self._values = values
        self._path = path

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def fail(self, name: str, wanted: str) -> NoReturn:
        """Refuse a field."""
        got = json.dumps(self._values.get(name), default=str)
        shown = got if len(got) <= 40 else got[:37] + "..."
        raise InvalidRequest(
            f"{self._path}{name} must be {wanted}, not {shown}", param=self._path + name
        )

    def text(self, name: str, default: str = "") -> str:
        """A string. Halves of surrogate pairs, which JSON can hold and UTF-8 cannot, become "?"."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fail(name, "a string")
        return _clean(value)

    def texts(self, name: str, what: str = "a string or a list of strings") -> tuple[str, ...]:
        """A string or a list of them; nothing where it is absent."""
        value = self._values.get(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return (_clean(value),)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self.fail(name, what)
        return tuple(_clean(v) for v in value)

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(name, "true or false")
        return value

    def number(self, name: str, default: float, *, least: float, most: float = math.inf) -> float:
        """A finite number in a range."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(name, "a number")
        if not least <= value <= most or not math.isfinite(value):
            self.fail(name, f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}")
        return float(value)

    def integer(
        self, name: str, default: int, *, least: int | None = None, most: int | None = None
    ) -> int:
        """A whole number in a range; 3.0 is one, as some languages write it."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(name, "a whole number")
        if least is not None and value < least:
            self.fail(name, f"at least {least}")
        if most is not None and value > most:
            self.fail(name, f"at most {most}")
        return value

    def seed(self) -> int | None:
        """`seed`, where it is given."""
        return self.integer("seed", 0) if "seed" in self else None

    def object(self, name: str) -> Fields:
        """A nested object; an empty one where it is absent."""
        value = self._values.get(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            self.fail(name, "an object")
        return Fields(value, f"{self._path}{name}.")


def parse_body(data: bytes) -> Fields:
    """The JSON object that a request carries.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except ValueError as e:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise InvalidRequest(f"the body is not valid JSON: {e}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return Fields(value)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def parse_openai(body: Fields, defaults: Defaults) -> OpenAICall:
    """OpenAI's legacy completions; `segments` (Tabby's form) may stand for prompt and suffix."""
    prompts = body.texts(
        "prompt", "a string or a list of strings (token ids are not understood: send the text)"
    )
    suffix = body.text("suffix")
    if not prompts and "segments" in body:
        segments = body.object("segments")
        prompts, suffix = (segments.text("prefix"),), segments.text("suffix")
    if not prompts:
        raise InvalidRequest("you must specify a prompt", param="prompt")
    n = body.integer("n", 1, least=1, most=MAX_CHOICES)
    if n * len(prompts) > MAX_CHOICES:
        raise InvalidRequest(f"n times prompts is more than {MAX_CHOICES}", param="n")
    completion = Completion(
        prompts=prompts,
        suffix=suffix,
        n=n,
        max_tokens=body.integer("max_tokens", defaults.max_tokens, least=0),
        stop=body.texts("stop"),
        sampling=SamplingParams(
            temperature=body.number("temperature", defaults.temperature, least=0),
            top_p=body.number("top_p", defaults.top_p, least=0, most=1),
            top_k=max(0, body.integer("top_k", 0)),  # vLLM's -1 is "off"
            repeat_penalty=_repeat_penalty(body, "repetition_penalty"),
            frequency_penalty=body.number("frequency_penalty", 0.0, least=-2, most=2),
            presence_penalty=body.number("presence_penalty", 0.0, least=-2, most=2),
            seed=body.seed(),
        ),
    )
    usage = body.object("stream_options").flag("include_usage")
    return OpenAICall(completion, body.flag("stream"), usage)


def parse_huggingface(body: Fields, defaults: Defaults) -> HuggingFaceCall:
    """Hugging Face's text generation: `inputs`, `parameters`."""
    p = body.object("parameters")
    inputs = body.text("inputs")
    length = body.integer("max_tokens", defaults.max_tokens, least=0)
    temperature = p.number("temperature", defaults.temperature, least=0)
    completion = Completion(
        prompts=(inputs,),
        max_tokens=p.integer("max_new_tokens", length, least=0),
        stop=p.texts("stop") or p.texts("stop_sequences"),
        sampling=SamplingParams(
            temperature=temperature if p.flag("do_sample", True) else 0.0,
            top_p=p.number("top_p", defaults.top_p, least=0, most=1),
            top_k=max(0, p.integer("top_k", 0)),
            repeat_penalty=_repeat_penalty(p, "repetition_penalty"),
            seed=p.seed(),
        ),
    )
    return HuggingFaceCall(completion, inputs, p.flag("return_full_text"))


def parse_ollama(body: Fields, defaults: Defaults) -> OllamaCall:
    """Ollama's generate: `prompt`, `suffix`, `options`; it streams unless told not to."""
    o = body.object("options")
    num_predict = o.integer("num_predict", defaults.max_tokens)
    completion = Completion(
        prompts=(body.text("prompt"),),
        suffix=body.text("suffix"),
        max_tokens=num_predict if num_predict >= 0 else UNLIMITED,
        stop=o.texts("stop"),
        sampling=SamplingParams(
            temperature=o.number("temperature", defaults.temperature, least=0),
            top_p=o.number("top_p", defaults.top_p, least=0, most=1),
            top_k=max(0, o.integer("top_k", 0)),
            repeat_penalty=_repeat_penalty(o, "repeat_penalty"),
            frequency_penalty=o.number("frequency_penalty", 0.0, least=-2, most=2),
            presence_penalty=o.number("presence_penalty", 0.0, least=-2, most=2),
            seed=o.seed(),
        ),
    )
    return OllamaCall(completion, body.flag("stream", True), body.text("model"))


def _repeat_penalty(fields: Fields, name: str) -> float:
    """Above 0: it divides."""
    return fields.number(name, 1.0, least=0.01, most=100)
