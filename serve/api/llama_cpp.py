"""llama.cpp's native routes `/completion` and `/infill`, used by llama.vim, llama.vscode and Twinny.

Source: llama.cpp's tools/server/README.md, and the responses of its server.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field, RootModel, with_config
from typing_extensions import TypedDict

from serve.api import body
from serve.api.dialect import SSE_WITHOUT_DONE, Json, Rendering
from serve.api.sampling import SamplingFields, server_default
from serve.api.timings import TimedDialect, TimingsAnswer, timings
from serve.api.tokens import DetailedLogprob, detailed_logprobs
from serve.models.completion import Completion
from serve.prompt.context_file import ContextFile
from serve.prompt.fim import PromptText
from serve.request import ChosenToken, Finished, PromptScored, TextDelta
from serve.runner.generation import Answer, Choice
from serve.settings import Defaults
from turbopilot.base.errors import InvalidRequest

STOP_TYPES: Final = {"length": "limit", "stop": "eos"}  # "word" if a stop string ended the text
_NESTED: Final[dict[str, Any]] = {
    "/": {"description": "A nested field from `response_fields`, under its path."}
}


@with_config(ConfigDict(json_schema_extra={"patternProperties": _NESTED}))
class InfillAnswer(TypedDict, total=False):
    """A completion. Stream chunks have fewer fields, and `response_fields` selects fields.

    `stop_type` is the reason why the text ended: "limit" (maximum tokens), "eos" (end of generation), "word" (a stop
    string) or "none" (a newer request of the same session). `completion_probabilities` is set only with `n_probs`.
    """

    index: body.Count
    content: str
    stop: bool
    stop_type: Annotated[str, Field(json_schema_extra={"enum": ["limit", "eos", "word", "none"]})]
    stopping_word: str
    model: str
    tokens_predicted: body.Count
    tokens_evaluated: body.Count
    tokens_cached: body.Count
    truncated: bool
    timings: TimingsAnswer
    completion_probabilities: list[DetailedLogprob]


class InfillAnswers(RootModel[InfillAnswer | list[InfillAnswer]]):
    """A completion, or a list of them if there are several."""


class LlamaCppRendering(Rendering["LlamaCppFields"]):
    """Renderer of llama.cpp's response: one object per choice, in a list if there are several."""

    def whole(self, answer: Answer) -> Json | list[Json]:
        """Return one object, or a list of them if there are several choices."""
        found = [self._done(i, c) for i, c in enumerate(answer.choices)]
        return found[0] if len(found) == 1 else found

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterator[Json]:
        """Yield a chunk, unless there is no final text yet."""
        if not isinstance(event, TextDelta):
            return
        chunk: InfillAnswer = {"index": index, "content": event.text, "stop": False}
        if self._request.n_probs:
            probabilities = self._probabilities(index, event.tokens, len(event.text))
            if not probabilities and not event.text:
                return
            chunk["completion_probabilities"] = probabilities
        if event.usage:
            chunk["timings"] = timings(event.usage)
        yield chunk

    def end(self, index: int, event: Finished) -> Json:
        """Return the last chunk of a choice, without the text, which was already sent."""
        return self._done(index, Choice("", event.reason, event.usage, event.stop_string))

    def _probabilities(
        self, index: int, tokens: tuple[ChosenToken, ...], n_characters: int
    ) -> list[DetailedLogprob]:
        return detailed_logprobs(self._place(index, tokens, n_characters), ids=True)

    def _done(self, index: int, c: Choice) -> Json:
        """Return a finished completion, with the fields that `response_fields` selects."""
        found: InfillAnswer = {
            "index": index,
            "content": c.text,
            "stop": True,
            "stop_type": "word" if c.stop_string else STOP_TYPES.get(c.finish_reason, "none"),
            "stopping_word": c.stop_string,
            "model": self._model,
            "tokens_predicted": c.usage.completion_tokens,
            "tokens_evaluated": c.usage.prompt_tokens,
            "tokens_cached": c.usage.prompt_tokens + c.usage.completion_tokens,
            "truncated": self._truncated,
            "timings": timings(c.usage),
        }
        if c.tokens:
            found["completion_probabilities"] = self._probabilities(index, c.tokens, len(c.text))
        picked = {path: _at(found, path) for path in body.as_tuple(self._request.response_fields)}
        return {k: v for k, v in picked.items() if v is not None} if picked else found


def _at(value: object, path: str) -> object:
    for key in path.split("/"):
        value = value.get(key) if isinstance(value, dict) else None
    return value


class LlamaCppFields(SamplingFields, TimedDialect):
    """Fields that `/completion` and `/infill` share."""

    framing = SSE_WITHOUT_DONE
    rendering = LlamaCppRendering
    answer = InfillAnswers
    chunk = InfillAnswer

    n_predict: body.Whole | None = server_default("max_tokens")
    """Maximum tokens to generate; a negative number means as many as fit. 0 generates nothing and only caches the
    prompt."""
    max_tokens: body.Whole | None = server_default("max_tokens")
    """Same as `n_predict`, which takes precedence."""
    n_cmpl: body.Choices | None = None
    """Same as `n`, over which it takes precedence."""
    n: body.Choices = 1
    """Number of completions for each prompt; `n` times the number of prompts must be at most 128."""
    n_probs: body.TopLogprobs = 0
    """Return each token's log probability and those of this many most likely tokens; 0 is off."""
    response_fields: body.StringOrStrings = Field(default=[])
    """Fields to return, nested ones as a path such as "timings/prompt_n". By default, all fields are returned."""

    def _continued(self, prompts: tuple[PromptText, ...], defaults: Defaults) -> Completion:
        n = body.first(self.n_cmpl, self.n)
        body.check_number("n" if self.n_cmpl is None else "n_cmpl", n, prompts)
        length = body.first(self.n_predict, self.max_tokens, defaults.max_tokens)
        return replace(
            self.common(prompts, body.unlimited(length), defaults),
            n=n,
            n_logprobs=self.n_probs or None,
        )


class LlamaCompletionRequest(LlamaCppFields):
    """llama.cpp's completion."""

    example: ClassVar[dict[str, Any]] = {"prompt": "def add(a, b):", "n_predict": 16}

    prompt: body.Prompts
    """A text, token ids, or a list of either."""
    respells: body.TokenIds = Field(default=[])
    """Tokens after a prompt of token ids that the completion begins with, in this or another spelling, and that are not
    part of its text. Another TurboPilot sends it (`--upstream`)."""
    end_loops: bool = True
    """End a completion that repeats itself; unless the server was started with `--no-end-loops`."""

    def _asked(self, defaults: Defaults) -> Completion:
        found = self._continued(body.as_prompts(self.prompt), defaults)
        return replace(found, respells=tuple(self.respells), ends_loops=self.end_loops)


class ExtraFile(body.Body):
    """Another file of the project, as context."""

    filename: str = ""
    text: str = ""


class InfillRequest(LlamaCppFields):
    """llama.cpp's fill-in-the-middle."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {name: {"type": "string", "minLength": n}}, "required": [name]}
                for name, n in (("input_prefix", 0), ("input_suffix", 0), ("prompt", 1))
            ]
        }
    )
    example: ClassVar[dict[str, Any]] = {"input_prefix": "def add(", "input_suffix": "\n    pass"}

    input_prefix: str | None = None
    """Text before the cursor's line."""
    input_suffix: str | None = None
    """Text after the cursor."""
    prompt: str = ""
    """Text between the start of the cursor's line and the cursor. Without `input_prefix` and `input_suffix`: a prompt
    that the client has already framed for fill-in-the-middle, as Twinny sends it."""
    input_extra: list[ExtraFile] = Field(default=[], fail_fast=True)
    """Other files for the prompt, the most important last."""

    def _asked(self, defaults: Defaults) -> Completion:
        if self.input_prefix is None and self.input_suffix is None:
            if not self.prompt:
                raise InvalidRequest(
                    "you must specify input_prefix or input_suffix", param="input_prefix"
                )
            return self._continued((self.prompt,), defaults)
        files = (ContextFile(file.filename, file.text) for file in self.input_extra if file.text)
        return replace(
            self._continued(((self.input_prefix or "") + self.prompt,), defaults),
            suffix=self.input_suffix or "",
            files=tuple(files),
        )
