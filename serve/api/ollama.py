"""Ollama's generate and chat. On `/api/generate`, a body with `prompt` is one of these requests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from serve.api import body
from serve.api.chat import AnswerMessage, ChatMessage
from serve.api.dialect import NDJSON, Dialect, Json, Rendering
from serve.api.sampling import ANY_OBJECT, SamplingFields, server_default
from serve.models.completion import Completion
from serve.models.service import CompletionService
from serve.prompt.fim import PromptText
from serve.request import Finished, PromptScored, TextDelta, Usage
from serve.runner.generation import Answer
from serve.settings import Defaults

NANO: Final = 1_000_000_000


def utc(seconds: float) -> str:
    """Return a Unix time in RFC 3339's format, in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


class OllamaHead(TypedDict):
    """Common fields of a chunk and of a whole response. Those after `done` are only in the last chunk."""

    model: str
    created_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
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


class OllamaAnswer(OllamaHead):
    """A chunk of Ollama's stream, or the whole response."""

    response: str


class OllamaChatAnswer(OllamaHead):
    """A chunk of Ollama's chat, or the whole response."""

    message: AnswerMessage


class OllamaRendering(Rendering["OllamaFields"]):
    """Renderer of Ollama's response: a line for each part of the text, and a last line with the token counts."""

    def whole(self, answer: Answer) -> Json:
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

    def loaded(self) -> Json:
        """Return the response to a request that only loads the model."""
        return {**self._line(""), "done": True, "done_reason": "load"}

    def _content(self, text: str) -> Json:
        return {"response": text}

    def _line(self, text: str) -> Json:
        return {
            "model": self._request.model or self._model,
            "created_at": utc(time.time()),
            **self._content(text),
            "done": False,
        }

    def _last(self, text: str, reason: str, usage: Usage) -> Json:
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


class OllamaChatRendering(OllamaRendering):
    """Renderer of Ollama's chat, whose text is in a message."""

    def _content(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text}}


class OllamaOptions(SamplingFields):
    """Options of the completion."""

    num_predict: body.Whole | None = server_default("max_tokens")
    """Maximum tokens to generate; a negative number means as many as fit."""


class OllamaFields(Dialect):
    """Fields that generate and chat share."""

    framing = NDJSON
    rendering: ClassVar[type[OllamaRendering]] = OllamaRendering

    stream: bool = True
    """Send the text as it is generated."""
    format: Annotated[
        Literal["json", ""] | dict[str, Any], body.Alternatives('"json" or a JSON schema')
    ] = ""
    """"json" for any JSON object, or a JSON schema that the text must match."""
    options: OllamaOptions = Field(default_factory=OllamaOptions)

    @property
    def only_loads(self) -> bool:
        """Whether the request has no text, which Ollama's clients send to load a model."""
        raise NotImplementedError

    def at_once(self, service: CompletionService) -> Json | None:
        """Return the response to a request that only loads the model."""
        return self.rendering(self, service, truncated=False).loaded() if self.only_loads else None

    def _continued(self, prompts: tuple[PromptText, ...], defaults: Defaults) -> Completion:
        schema = ANY_OBJECT if self.format == "json" else self.format
        length = body.unlimited(body.first(self.options.num_predict, defaults.max_tokens))
        return self.options.common(
            prompts, length, defaults, schema if isinstance(schema, dict) else None
        )


class OllamaRequest(OllamaFields):
    """Ollama's generate. A request with an empty prompt only loads the model."""

    key = "prompt"
    answer = OllamaAnswer
    chunk = OllamaAnswer

    prompt: str
    """Text before the cursor."""
    suffix: str = ""
    """Text after the cursor."""

    @property
    def only_loads(self) -> bool:
        """See `OllamaFields`."""
        return not (self.prompt or self.suffix)

    def _asked(self, defaults: Defaults) -> Completion:
        return replace(self._continued((self.prompt,), defaults), suffix=self.suffix or None)


class OllamaChatRequest(OllamaFields):
    """Ollama's chat. A request without messages only loads the model."""

    example: ClassVar[dict[str, Any]] = {"messages": [{"role": "user", "content": "Say hello."}]}
    rendering = OllamaChatRendering
    answer = OllamaChatAnswer
    chunk = OllamaChatAnswer

    messages: Annotated[list[ChatMessage], Field(fail_fast=True)] = Field(default=[])
    """The conversation. The model's chat template builds the prompt from it and may reject some orders of roles."""

    @property
    def only_loads(self) -> bool:
        """See `OllamaFields`."""
        return not self.messages

    def _asked(self, defaults: Defaults) -> Completion:
        """Return the completion without a prompt; `fitted` adds it."""
        return self._continued((), defaults)

    def fitted(self, completion: Completion, service: CompletionService) -> Completion:
        """Return the completion with a prompt from the model's chat template."""
        prompt = service.chat_prompt([m.message() for m in self.messages])
        return replace(completion, prompts=(prompt,))
