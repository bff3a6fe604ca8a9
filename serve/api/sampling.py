"""Fields for sampling and stop rules, which are the same in every dialect.

OpenAI, llama.cpp, vLLM, Hugging Face and Ollama use different names for the same parameters; every dialect accepts all
of these names.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, Strict, ValidationInfo, field_validator

from serve.api import body
from serve.api.text_parts import Prediction, joined
from serve.models.completion import Completion
from serve.prompt.fim import PromptText
from serve.request import SamplingParams, StopRules
from serve.settings import Defaults
from turbopilot.base.errors import InvalidRequest

MAX_BIAS: Final = 100.0  # Source: OpenAI's API reference on `logit_bias`.
MAX_BIASES: Final = 4096  # each takes time for every token
# In characters. Tokens are shorter, and llama.cpp takes minutes to tokenize a text of megabytes.
MAX_BIAS_TEXT: Final = 128

ANY_OBJECT: Final[dict[str, Any]] = {"type": "object"}
# Key in a field's schema with the name of the server option that is its default; see `serve.api.openapi`.
SERVER_DEFAULT: Final = "x-server-default"

Penalty = Annotated[float, Field(ge=-2, le=2)]
Repetition = Annotated[float, Field(ge=0.01, le=100)]  # above 0, since it is a divisor
BiasText = Annotated[str, Field(max_length=MAX_BIAS_TEXT)]
Bias = Annotated[
    Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)] | Literal[False],
    Field(union_mode="left_to_right"),  # otherwise 0 would be read as false
]
BiasPair = Annotated[tuple[int | BiasText, Bias], Strict(False)]  # JSON has no tuples
LogitBias = Annotated[
    Annotated[dict[BiasText, Bias], Field(max_length=MAX_BIASES)]
    | Annotated[list[BiasPair], Field(max_length=MAX_BIASES, fail_fast=True)],
    body.Alternatives(
        f"an object or a list of [token, bias] pairs, at most {MAX_BIASES}: a token id or a text of at most "
        f"{MAX_BIAS_TEXT} characters, with a number from -{MAX_BIAS:g} to {MAX_BIAS:g} or false"
    ),
]


def server_default(option: str) -> Any:
    """Return a field whose default is an option of the server."""
    return Field(default=None, json_schema_extra={SERVER_DEFAULT: option})


class NamedSchema(body.Body):
    """A JSON schema in OpenAI's wrapper."""

    schema_: dict[str, Any] = Field(alias="schema")
    """JSON schema that the text must match."""


class ResponseFormat(body.Body):
    """OpenAI's `response_format`."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"type": {"const": "json_schema"}}, "required": ["type"]},
            "then": {
                "properties": {"json_schema": {"type": "object"}},
                "required": ["json_schema"],
            },
        }
    )

    type: Literal["text", "json_object", "json_schema"] = "text"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    """JSON schema for the type `json_object` (llama.cpp)."""
    json_schema: NamedSchema | None = Field(default=None, validate_default=True)
    """JSON schema for the type `json_schema` (OpenAI)."""

    @field_validator("json_schema")
    @classmethod
    def _is_there(cls, value: NamedSchema | None, info: ValidationInfo) -> NamedSchema | None:
        if value is None and info.data.get("type") == "json_schema":
            raise ValueError("response_format.json_schema must be an object with a schema")
        return value

    @property
    def schema_asked_for(self) -> dict[str, Any] | None:
        """The requested JSON schema; None if any text is allowed."""
        if self.type == "json_schema" and self.json_schema:
            return self.json_schema.schema_
        return self.schema_ or ANY_OBJECT if self.type == "json_object" else None


class SamplingFields(body.Body):
    """Sampling fields: in the body itself, in Hugging Face's `parameters`, or in Ollama's `options`."""

    temperature: body.Positive | None = server_default("temperature")
    """Sampling temperature; 0 always takes the most likely token."""
    top_p: body.Share | None = server_default("top_p")
    """Sample among the most likely tokens that together have this probability."""
    top_k: body.Whole = 0
    """Sample among this many of the most likely tokens; below 1 is off."""
    min_p: body.Share = 0.0
    """Sample among tokens with at least this share of the most likely token's probability."""
    repeat_penalty: Repetition | None = None
    """Same as `repetition_penalty`, over which it takes precedence."""
    repetition_penalty: Repetition = 1.0
    """Penalty for tokens that occurred before; 1 is off."""
    repeat_last_n: body.CountOrAll = 64
    """Number of preceding tokens that the penalties apply to; 0 turns them off, -1 means all tokens."""
    frequency_penalty: Penalty = 0.0
    """Amount subtracted from a token's logit for each time that it occurred before (OpenAI)."""
    presence_penalty: Penalty = 0.0
    """Amount subtracted from a token's logit if it occurred before (OpenAI)."""
    do_sample: bool = True
    """`false` means temperature 0 (Hugging Face)."""
    samplers: Any = None
    """llama.cpp's list of samplers. The server only checks whether it contains "infill"; the order is ignored."""
    seed: body.Whole | None = None
    """Random seed that makes the completion repeatable; by default, each request gets a different seed."""
    stop: body.Stops = Field(default=[])
    """Stop strings: the text ends before the first one that occurs."""
    single_line: bool = False
    """End the text after the first line that is not blank."""
    n_indent: body.Count = 0
    """End the text before a line that is indented by fewer columns than this; 0 is off."""
    logit_bias: LogitBias = Field(default={})
    """Amounts to add to logits: an object {token id or text: bias} (OpenAI) or a list of [token id or text, bias]
    pairs (llama.cpp). A text stands for all its tokens; `false` forbids them; out-of-vocabulary ids are ignored."""
    json_schema: dict[str, Any] | None = None
    """JSON schema that the text must match; references outside of it are refused."""
    response_format: ResponseFormat | None = None
    """Format of the text (OpenAI). Only one of `json_schema` and `response_format` may set a schema."""
    prediction: Prediction | None = None
    """Text that the completion is expected to begin with, such as the file before an edit: a source of draft tokens
    (OpenAI)."""
    t_max_predict_ms: body.Positive = 0.0
    """Time limit in milliseconds from the first token; the text ends after it, once a line is complete. 0 means no
    limit."""

    def common(
        self,
        prompts: tuple[PromptText, ...],
        max_tokens: int,
        defaults: Defaults,
        schema: dict[str, Any] | None = None,
    ) -> Completion:
        """Return a completion with the values of these fields; `schema` is a JSON schema from another field."""
        return Completion(
            prompts,
            max_tokens,
            stop=StopRules(body.as_tuple(self.stop), self.single_line, self.n_indent),
            sampling=self._sampling(defaults, schema),
            logit_bias=self._logit_bias(),
            predict_time=self.t_max_predict_ms / 1000 or None,
            prediction=joined(self.prediction.content) if self.prediction else "",
        )

    def _sampling(self, defaults: Defaults, schema: dict[str, Any] | None) -> SamplingParams:
        return SamplingParams(
            temperature=body.first(self.temperature, defaults.temperature)
            if self.do_sample
            else 0.0,
            top_p=body.first(self.top_p, defaults.top_p),
            top_k=max(0, self.top_k),  # vLLM's -1 means "off"
            min_p=self.min_p,
            repeat_penalty=body.first(self.repeat_penalty, self.repetition_penalty),
            repeat_last_n=self.repeat_last_n,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            schema=self._schema(schema),
            infill=isinstance(self.samplers, list) and "infill" in self.samplers,
            seed=self.seed,
        )

    def _logit_bias(self) -> tuple[tuple[int | str, float], ...]:
        given = self.logit_bias
        pairs = [(_token(k), v) for k, v in given.items()] if isinstance(given, dict) else given
        return tuple((token, -math.inf if bias is False else bias) for token, bias in pairs)

    def _schema(self, schema: dict[str, Any] | None) -> str:
        """Return the requested JSON schema as text; "" if there is none."""
        form = self.response_format.schema_asked_for if self.response_format else None
        schemas = [s for s in (schema, self.json_schema, form) if s is not None]
        if not schemas:
            return ""
        if len(schemas) > 1:
            raise InvalidRequest(
                "give only one of json_schema, response_format and format", param="json_schema"
            )
        from serve.sampling import json_schema  # few requests need it

        return json_schema.schema_text(schemas[0])


def _token(key: str) -> int | str:
    is_id = len(key) <= 10 and key.isascii() and key.isdecimal()
    return int(key) if is_id else key
