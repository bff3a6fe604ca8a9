"""`/api/generate` in two dialects: Hugging Face's text generation (`inputs`) and Ollama's generate (`prompt`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from serve.api import body
from serve.api.dialect import NDJSON, Dialect, Json, Rendering
from serve.api.sampling import ANY_OBJECT, SamplingFields, server_default
from serve.models.service import Completion, CompletionService
from serve.request import Finished, PromptScored, TextDelta, Usage
from serve.runner.generation import Answer
from serve.settings import Defaults

NANO: Final = 1_000_000_000


class HuggingFaceAnswer(TypedDict):
    """The completion. `truncated`: whether the prompt or completion was cut to fit."""

    generated_text: str
    truncated: bool


class OllamaAnswer(TypedDict):
    """A chunk of Ollama's stream, or the whole response. All fields but the first four are only in the last chunk."""

    model: str
    created_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    response: str
    done: bool
    done_reason: NotRequired[
        Annotated[str, Field(json_schema_extra={"enum": ["stop", "length", "cancelled", "load"]})]
    ]
    total_duration: NotRequired[body.Count]
    prompt_eval_count: NotRequired[body.Count]
    prompt_eval_duration: NotRequired[body.Count]
    eval_count: NotRequired[body.Count]
    eval_duration: NotRequired[body.Count]
    truncated: NotRequired[bool]


class HuggingFaceRendering(Rendering["HuggingFaceRequest"]):
    """Renderer of Hugging Face's response."""

    def whole(self, answer: Answer) -> HuggingFaceAnswer:
        """Return the response."""
        (choice,) = answer.choices
        before = self._request.inputs if self._request.parameters.return_full_text else ""
        return {"generated_text": before + choice.text, "truncated": self._truncated}


class HuggingFaceParameters(SamplingFields):
    """Parameters of the completion."""

    max_new_tokens: body.Count | None = None
    """Maximum tokens to generate; takes precedence over the body's `max_tokens`."""
    stop_sequences: body.Stops = Field(default=[])
    """Same as `stop`; used if `stop` is empty."""
    return_full_text: bool = False
    """Begin the text with `inputs`."""


class HuggingFaceRequest(Dialect):
    """Hugging Face's text generation."""

    key = "inputs"
    example: ClassVar[dict[str, Any]] = {"inputs": "x = ", "parameters": {"max_new_tokens": 16}}
    framing = None
    rendering = HuggingFaceRendering
    answer = HuggingFaceAnswer

    inputs: str
    """Text to complete."""
    max_tokens: body.Count | None = server_default("max_tokens")
    """Maximum tokens to generate."""
    parameters: HuggingFaceParameters = Field(default_factory=HuggingFaceParameters)
    stream: bool = False
    """Ignored: the response is never a stream."""

    def _asked(self, defaults: Defaults) -> Completion:
        p = self.parameters
        length = body.first(p.max_new_tokens, self.max_tokens, defaults.max_tokens)
        completion = p.common((self.inputs,), length, defaults)
        stop = replace(completion.stop, strings=body.as_tuple(p.stop or p.stop_sequences))
        return replace(completion, stop=stop)


class OllamaRendering(Rendering["OllamaRequest"]):
    """Renderer of Ollama's response: a line for each part of the text, and a last line with the token counts."""

    def whole(self, answer: Answer) -> OllamaAnswer:
        """Return the response in one object."""
        (choice,) = answer.choices
        return self._last(choice.text, choice.finish_reason, answer.usage)

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterator[Json]:
        """Yield a line with the next part of the text."""
        if isinstance(event, TextDelta):
            yield self._line(event.text)

    def end(self, index: int, event: Finished) -> Json:
        """Return the last line of the stream."""
        return self._last("", event.reason, event.usage)

    def loaded(self) -> OllamaAnswer:
        """Return the response to a request that only loads the model."""
        return {**self._line(""), "done": True, "done_reason": "load"}

    def _line(self, text: str) -> OllamaAnswer:
        now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
        model = self._request.model or self._model
        return {"model": model, "created_at": now, "response": text, "done": False}

    def _last(self, text: str, reason: str, usage: Usage) -> OllamaAnswer:
        return {
            **self._line(text),
            "done": True,
            "done_reason": reason,
            "total_duration": int(NANO * (usage.prompt_seconds + usage.predict_seconds)),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": int(NANO * usage.prompt_seconds),
            "eval_count": usage.completion_tokens,
            "eval_duration": int(NANO * usage.predict_seconds),
            "truncated": self._truncated,
        }


class OllamaOptions(SamplingFields):
    """Options of the completion."""

    num_predict: body.Whole | None = server_default("max_tokens")
    """Maximum tokens to generate; a negative number means as many as fit."""


class OllamaRequest(Dialect):
    """Ollama's generate. A request with an empty prompt only loads the model."""

    key = "prompt"
    framing = NDJSON
    rendering = OllamaRendering
    answer = OllamaAnswer
    chunk = OllamaAnswer

    prompt: str
    """Text before the cursor."""
    suffix: str = ""
    """Text after the cursor."""
    stream: bool = True
    """Send the text as it is generated."""
    format: Annotated[
        Literal["json", ""] | dict[str, Any], body.Alternatives('"json" or a JSON schema')
    ] = ""
    """"json" for any JSON object, or a JSON schema that the text must match."""
    options: OllamaOptions = Field(default_factory=OllamaOptions)

    def _asked(self, defaults: Defaults) -> Completion:
        schema = ANY_OBJECT if self.format == "json" else self.format
        length = body.unlimited(body.first(self.options.num_predict, defaults.max_tokens))
        completion = self.options.common(
            (self.prompt,), length, defaults, schema if isinstance(schema, dict) else None
        )
        return replace(completion, suffix=self.suffix or None)

    def at_once(self, service: CompletionService) -> OllamaAnswer | None:
        """Return the response to a request without text, which Ollama's clients send to load a model."""
        if self.prompt or self.suffix:
            return None
        return OllamaRendering(self, service, truncated=False).loaded()
