"""OpenAI's legacy completions, which FauxPilot's clients and Tabby's agent use as well."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from typing_extensions import NotRequired, TypedDict

from serve.api import body
from serve.api.dialect import ChunkEnds, Ends, Json, Rendering
from serve.api.sampling import SamplingFields, server_default
from serve.api.timings import TimedDialect, TimingsAnswer, timings
from serve.api.tokens import LegacyLogprobs, legacy_logprobs
from serve.api.usage import UsageAnswer, usage_json
from serve.models.completion import Completion
from serve.models.service import CompletionService
from serve.prompt.fim import PromptText
from serve.request import ChosenToken, Finished, PromptScored, TextDelta, Usage
from serve.runner.generation import Answer, Choice
from serve.settings import Defaults
from turbopilot.base.errors import InvalidRequest

R = TypeVar("R", bound="OpenAiRequest")


class OpenAiHead(TypedDict):
    """Common fields of a response and of each stream chunk."""

    id: str
    object: str
    created: body.Count
    model: str


class CompletionChoice(TypedDict):
    """One completion."""

    index: body.Count
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: Ends


class CompletionDelta(TypedDict):
    """A part of one completion."""

    index: body.Count
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: ChunkEnds


class CompletionAnswer(OpenAiHead):
    """A response in one piece. `truncated`: whether the prompt or completion was cut to fit."""

    choices: list[CompletionChoice]
    usage: UsageAnswer
    timings: TimingsAnswer
    truncated: bool


class CompletionChunk(OpenAiHead):
    """A chunk of a stream. The last chunk of each choice has `truncated` and the choice's `timings`."""

    choices: list[CompletionDelta]
    usage: NotRequired[UsageAnswer | None]
    timings: NotRequired[TimingsAnswer]
    truncated: NotRequired[bool]


class OpenAiRendering(Rendering[R]):
    """Renderer of the fields that responses of completions and chat share."""

    prefix: ClassVar[str]
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def __init__(self, request: R, service: CompletionService, *, truncated: bool) -> None:
        super().__init__(request, service, truncated=truncated)
        self._no_usage: Json = {"usage": None} if request.include_usage else {}
        self._head: OpenAiHead = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": self.kind,
            "created": int(time.time()),
            "model": self._model,
        }

    def whole(self, answer: Answer) -> Json:
        """Return one object with all choices."""
        return {
            **self._head,
            "choices": [self._choice(i, c) for i, c in enumerate(answer.choices)],
            "usage": self._usage(answer.usage),
            "timings": timings(answer.usage),
            "truncated": self._truncated,
        }

    def _choice(self, index: int, choice: Choice) -> Json:
        raise NotImplementedError

    def _chunk(self, delta: Json, usage: Usage | None = None) -> Json:
        """Return a chunk, with the timings of this usage."""
        head = {**self._head, "object": self.chunk_kind}
        timed = {"timings": timings(usage)} if usage else {}
        return {**head, "choices": [delta], **self._no_usage, **timed}

    def _last_chunk(self, delta: Json, event: Finished) -> Json:
        """Return the last chunk of a choice."""
        return {**self._chunk(delta, event.usage), "truncated": self._truncated}

    def last(self, usage: Usage) -> Iterator[Json]:
        """Yield a chunk with the token counts if they were requested."""
        if self._no_usage:
            head = {**self._head, "object": self.chunk_kind}
            counts = {"usage": self._usage(usage), "timings": timings(usage)}
            yield {**head, "choices": [], **counts}

    def _usage(self, usage: Usage) -> UsageAnswer:
        return usage_json(usage, has_prediction=self._request.prediction is not None)


class CompletionRendering(OpenAiRendering["CompletionFields"]):
    """Renderer of completions; with `echo`, each text begins with the prompt."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(
        self, request: CompletionFields, service: CompletionService, *, truncated: bool
    ) -> None:
        super().__init__(request, service, truncated=truncated)
        needs_prompts = request.echo or request.n_logprobs is not None
        self._prompts = [service.text(p) for p in request.prompts] if needs_prompts else []
        self._echoed: set[int] = set()

    def _choice(self, index: int, choice: Choice) -> CompletionDelta:
        tokens = (*choice.prompt_tokens, *choice.tokens)
        return self._delta(index, choice.text, tokens, choice.finish_reason)

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterator[Json]:
        """Yield a chunk, unless there is no final text yet."""
        text, usage = (event.text, event.usage) if isinstance(event, TextDelta) else ("", None)
        delta = self._delta(index, text, event.tokens, None)
        if delta["text"] or (delta["logprobs"] and delta["logprobs"]["tokens"]):
            yield self._chunk(delta, usage)

    def end(self, index: int, event: Finished) -> Json:
        """Return the last chunk of a choice, without text (but with an echoed prompt if nothing was generated)."""
        delta = self._delta(index, "", (), event.reason)
        if not delta["text"]:
            delta["logprobs"] = None
        return self._last_chunk(delta, event)

    def _delta(
        self, index: int, text: str, tokens: tuple[ChosenToken, ...], reason: str | None
    ) -> CompletionDelta:
        request, logprobs = self._request, None
        prompt = self._prompts[index // request.n] if self._prompts else ""
        if request.echo and index not in self._echoed:
            self._echoed.add(index)
            text = prompt + text
        if request.n_logprobs is not None:
            # As in OpenAI's API, offsets count from the beginning of the prompt, whether it is echoed or not.
            placed = self._place(index, tokens, len(text), 0 if request.echo else len(prompt))
            logprobs = legacy_logprobs(placed, request.n_logprobs)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


class StreamOptions(body.Body):
    """Options of a stream."""

    include_usage: bool = False
    """End the stream with a chunk that has the token counts and an empty list of choices."""


class OpenAiRequest(SamplingFields, TimedDialect):
    """Fields that OpenAI's and Mistral's requests share."""

    max_tokens: body.Count | None = server_default("max_tokens")
    """Maximum tokens to generate, reduced to the number that fits. 0 generates nothing and only caches the prompt."""
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def n_logprobs(self) -> int | None:
        """Number of most likely tokens to report log probabilities for; None reports no log probabilities at all."""
        return None


class CompletionFields(OpenAiRequest):
    """Fields of a legacy completion without the prompt."""

    rendering = CompletionRendering
    answer = CompletionAnswer
    chunk = CompletionChunk

    n: body.Choices = 1
    """Number of completions for each prompt; `n` times the number of prompts must be at most 128."""
    best_of: body.Choices | None = None
    """Number of completions generated for each prompt, of which the `n` most likely are returned; at least `n`. In a
    stream it must equal `n`."""
    echo: bool = False
    """Begin the text with the prompt; `logprobs` then includes the prompt's tokens."""
    logprobs: body.TopLogprobsOrFalse | None = None
    """Return each token's log probability and those of this many most likely tokens; `false` turns it off."""

    @property
    def n_logprobs(self) -> int | None:
        """See `OpenAiRequest`. Some clients send false to turn log probabilities off."""
        return None if self.logprobs is False else self.logprobs

    @property
    def prompts(self) -> tuple[PromptText, ...]:
        """Prompts; there is at least one."""
        raise NotImplementedError

    def _asked(self, defaults: Defaults) -> Completion:
        prompts = self.prompts
        body.check_number("n", self.n, prompts)
        best_of = body.first(self.best_of, self.n)
        if best_of < self.n:
            raise InvalidRequest("best_of must be at least n", param="best_of")
        if self.stream and best_of > self.n:
            raise InvalidRequest("best_of greater than n cannot be streamed", param="best_of")
        return replace(
            self.common(prompts, body.first(self.max_tokens, defaults.max_tokens), defaults),
            n=self.n,
            best_of=best_of,
            n_logprobs=self.n_logprobs,
            scores_prompt=self.echo and self.n_logprobs is not None,
        )


class CompletionRequest(CompletionFields):
    """OpenAI's legacy completion."""

    key = "prompt"
    example: ClassVar[dict[str, Any]] = {"prompt": "def add(a, b):", "max_tokens": 16}

    prompt: body.Prompts
    """A text, token ids, or a list of either."""
    suffix: str = ""
    """Text after the cursor. Models without fill-in-the-middle do not use it for the prompt."""

    @property
    def prompts(self) -> tuple[PromptText, ...]:
        """Prompts; there is at least one."""
        return body.as_prompts(self.prompt)

    def _asked(self, defaults: Defaults) -> Completion:
        return replace(super()._asked(defaults), suffix=self.suffix or None)


class Segments(body.Body):
    """Text before and after the cursor, and the path of the edited file."""

    prefix: str = ""
    suffix: str = ""
    filepath: str = ""


class TabbyRequest(CompletionFields):
    """Completion request of Tabby's agent; it has `segments` instead of `prompt`."""

    key = "segments"

    segments: Segments

    @property
    def prompts(self) -> tuple[PromptText, ...]:
        """The single prompt."""
        return (self.segments.prefix,)

    def _asked(self, defaults: Defaults) -> Completion:
        s = self.segments
        return replace(super()._asked(defaults), suffix=s.suffix or None, filename=s.filepath)
