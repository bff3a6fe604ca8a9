"""Request bodies: JSON, validated by pydantic models. Errors name the invalid field."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    model_validator,
)

from serve.prompt.fim import PromptText
from turbopilot.base.errors import InvalidRequest

T = TypeVar("T")
B = TypeVar("B", bound="Body")
M = TypeVar("M", bound=BaseModel)

# Maximum of log probabilities per position. Source: OpenAI's limit for chat; for completions it was 5.
MAX_LOGPROBS: Final = 20
# Maximum of completions per request. Source: OpenAI's limit on `n`.
MAX_CHOICES: Final = 128
# Stop strings are searched for at every token. The recorded clients send up to 12, each of a few characters.
MAX_STOPS: Final = 64
MAX_STOP_CHARS: Final = 256
# Description of the expected value by pydantic's error type.
_WANTED: Final = {
    "string_type": "a string",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "model_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_long": "a string of at most {max_length} characters",
    "literal_error": "{expected}",
}
# JSON can contain lone surrogates, escaped or not; UTF-8 cannot.
_SURROGATE: Final = re.compile("\\\\u[dD]|[\ud800-\udfff]")


class Body(BaseModel):
    """A JSON object. Unknown fields are ignored, and null means that the field is absent."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            return {k: v for k, v in value.items() if v is not None}
        return value

    @classmethod
    def read(cls: type[B], values: Any) -> B:
        """Validate an object; raise InvalidRequest if a field is invalid."""
        return validated(cls, values)


class Alternatives:
    """Annotation of a union: its types are tried in order; if none fits, a single error states the expected value."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return {
            **handler(source),
            "mode": "left_to_right",
            "custom_error_type": "wanted",
            "custom_error_message": self._wanted,
        }


def _whole(value: Any) -> Any:
    """Convert whole floats to integers: some languages serialize 3 as 3.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
CountOrAll = Annotated[int, Field(ge=-1), BeforeValidator(_whole)]
Count = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES), BeforeValidator(_whole)]
TopLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS), BeforeValidator(_whole)]
TopLogprobsOrFalse = Annotated[
    TopLogprobs | Literal[False], Alternatives(f"a whole number from 0 to {MAX_LOGPROBS}")
]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0)]
Strings = Annotated[list[str], Field(fail_fast=True)]
StringOrStrings = Annotated[str | Strings, Alternatives("a string or a list of strings")]
_Stop = Annotated[str, Field(max_length=MAX_STOP_CHARS)]
Stops = Annotated[
    _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS, fail_fast=True)],
    Alternatives(
        f"a string of at most {MAX_STOP_CHARS} characters or a list of at most {MAX_STOPS} of these"
    ),
]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(fail_fast=True)]
Prompts = Annotated[
    str
    | Annotated[Strings, Field(min_length=1, max_length=MAX_CHOICES)]
    | Annotated[TokenIds, Field(min_length=1)]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)],
    Alternatives("a string, a list of strings, token ids or a list of lists of token ids"),
]


def as_prompts(value: Any) -> tuple[PromptText, ...]:
    """Return the prompts of a `Prompts` field, each a text or token ids."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value[0], int):
        return (tuple(value),)
    return tuple(v if isinstance(v, str) else tuple(v) for v in value)


def as_tuple(value: str | list[str]) -> tuple[str, ...]:
    """Return the strings of a field that may be a single string."""
    return (value,) if isinstance(value, str) else tuple(value)


def check_number(name: str, n: int, prompts: tuple[PromptText, ...]) -> None:
    """Raise InvalidRequest if `n` completions for each of these prompts are too many."""
    if n * len(prompts) > MAX_CHOICES:
        raise InvalidRequest(f"{name} times prompts must be at most {MAX_CHOICES}", param=name)


def first(*values: T | None) -> T:
    """Return the first value that is not None."""
    return next(v for v in values if v is not None)


def unlimited(n_tokens: int) -> int:
    """Return a very large number for a negative one, which means "as many as fit" (Ollama's and llama.cpp's -1, -2)."""
    return n_tokens if n_tokens >= 0 else 2**31


def validated(kind: type[M], values: Any) -> M:
    """Validate a JSON value; raise InvalidRequest if it or one of its fields is invalid."""
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        raise _refusal(e) from None


def read_json(data: bytes) -> dict[str, Any]:
    """Return the JSON object of a request, or raise InvalidRequest. Lone surrogates become "?"."""
    value = read_any_json(data)
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


def read_any_json(data: bytes) -> Any:
    """Return the JSON value of a request; see `read_json`."""
    try:
        text = data.decode(json.detect_encoding(data), "surrogatepass")
        value = json.loads(text, parse_constant=_no_constant)
        if _SURROGATE.search(text):
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except ValueError as e:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise InvalidRequest(f"the body is not valid JSON: {e}") from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def _refusal(error: ValidationError) -> InvalidRequest:
    found = error.errors(include_url=False)[0]
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in found["loc"]).lstrip(".")
    kind, context = found["type"], found.get("ctx", {})
    if kind == "missing":
        return InvalidRequest(f"you must specify {path}", param=path)
    if kind == "value_error":
        return InvalidRequest(str(context["error"]), param=path)
    wanted = _WANTED[kind].format(**context) if kind in _WANTED else found["msg"]
    return InvalidRequest(
        f"{path or 'the body'} must be {wanted}, not {_shown(found['input'])}", param=path
    )


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:  # json.dumps has a lower nesting limit than json.loads
        return "a deeply nested value"
    return text if len(text) <= 40 else text[:37] + "..."
