"""OpenAI's legacy completions: FauxPilot's engines and Tabby's agent send the same."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from typing_extensions import NotRequired, TypedDict

from serve.api import body
from serve.api.dialect import ChunkEnds, Dialect, Ends, Json, Rendering
from serve.api.sampling import SamplingFields, server_default
from serve.api.tokens import LegacyLogprobs, legacy_logprobs
from serve.models.service import Completion, CompletionService
from serve.prompt.fim import PromptText
from serve.request import ChosenToken, Finished, PromptScored, TextDelta, Usage
from serve.runner.generation import Answer, Choice
from serve.settings import Defaults
from turbopilot.base.errors import InvalidRequest

R = TypeVar("R", bound="OpenAiRequest")


class CachedTokens(TypedDict):
    """Details of a prompt's token count."""

    cached_tokens: body.Count


class UsageAnswer(TypedDict):
    """Token counts. A prompt counts once, however many choices it has."""

    prompt_tokens: body.Count
    completion_tokens: body.Count
    total_tokens: body.Count
    prompt_tokens_details: CachedTokens


class OpenAiHead(TypedDict):
    """Fields at the beginning of an answer and of each chunk of a stream."""

    id: str
    object: str
    created: body.Count
    model: str


class CompletionChoice(TypedDict):
    """One text."""

    index: body.Count
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: Ends


class CompletionDelta(TypedDict):
    """A piece of one text."""

    index: body.Count
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: ChunkEnds


class CompletionAnswer(OpenAiHead):
    """`truncated`: whether something was given up so that it fits."""

    choices: list[CompletionChoice]
    usage: UsageAnswer
    truncated: bool


class CompletionChunk(OpenAiHead):
    """A piece of a stream; the last of a choice has `truncated`."""

    choices: list[CompletionDelta]
    usage: NotRequired[UsageAnswer | None]
    truncated: NotRequired[bool]


def usage_json(usage: Usage) -> UsageAnswer:
    """Token counts in OpenAI's form."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


class OpenAiRendering(Rendering[R]):
    """Fields that the answers of completions and chat share."""

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
        """One object with all choices."""
        return {
            **self._head,
            "choices": [self._choice(i, c) for i, c in enumerate(answer.choices)],
            "usage": usage_json(answer.usage),
            "truncated": self._truncated,
        }

    def _choice(self, index: int, choice: Choice) -> Json:
        raise NotImplementedError

    def _chunk(self, delta: Json, **more: object) -> Json:
        head = {**self._head, "object": self.chunk_kind}
        return {**head, "choices": [delta], **self._no_usage, **more}

    def last(self, usage: Usage) -> Iterator[Json]:
        """A chunk with the token counts, if they are wanted."""
        if self._no_usage:
            head = {**self._head, "object": self.chunk_kind}
            yield {**head, "choices": [], "usage": usage_json(usage)}


class CompletionRendering(OpenAiRendering["CompletionFields"]):
    """A text for each choice, after the prompt if that is wanted."""

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
        """A chunk, unless nothing of the text is certain yet."""
        text = event.text if isinstance(event, TextDelta) else ""
        delta = self._delta(index, text, event.tokens, None)
        if delta["text"] or (delta["logprobs"] and delta["logprobs"]["tokens"]):
            yield self._chunk(delta)

    def end(self, index: int, event: Finished) -> Json:
        """A chunk without text; with the prompt's if nothing was generated."""
        delta = self._delta(index, "", (), event.reason)
        if not delta["text"]:
            delta["logprobs"] = None
        return self._chunk(delta, truncated=self._truncated)

    def _delta(
        self, index: int, text: str, tokens: tuple[ChosenToken, ...], reason: str | None
    ) -> CompletionDelta:
        request, logprobs = self._request, None
        prompt = self._prompts[index // request.n] if self._prompts else ""
        if request.echo and index not in self._echoed:
            self._echoed.add(index)
            text = prompt + text
        if request.n_logprobs is not None:
            # As in OpenAI's answers, places count from the beginning of the prompt, echoed or not.
            placed = self._place(index, tokens, len(text), 0 if request.echo else len(prompt))
            logprobs = legacy_logprobs(placed, request.n_logprobs)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


class StreamOptions(body.Body):
    """Options of a stream."""

    include_usage: bool = False
    """End the stream with a chunk that has the token counts and no choices."""


class OpenAiRequest(SamplingFields, Dialect):
    """The fields that OpenAI's and Mistral's requests share."""

    max_tokens: body.Count | None = server_default("max_tokens")
    """Most tokens to generate; more than fits is cut, 0 only warms the cache."""
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def n_logprobs(self) -> int | None:
        """Of how many likeliest tokens log probabilities are wanted; None wants none at all."""
        return None


class CompletionFields(OpenAiRequest):
    """A legacy completion, but for its prompt."""

    rendering = CompletionRendering
    answer = CompletionAnswer
    chunk = CompletionChunk

    n: body.Choices = 1
    """Texts for each prompt; times prompts at most 128."""
    best_of: body.Choices | None = None
    """Texts that are generated for each prompt, of which the `n` likeliest are returned; at least `n`, and no more
    than that in a stream."""
    echo: bool = False
    """Begin the text with the prompt; with `logprobs` its tokens are scored, too."""
    logprobs: body.TopLogprobsOrFalse | None = None
    """Return each token's log probability and those of this many likeliest tokens."""

    @property
    def n_logprobs(self) -> int | None:
        """Some clients send false for none."""
        return None if self.logprobs is False else self.logprobs

    @property
    def prompts(self) -> tuple[PromptText, ...]:
        """At least one."""
        raise NotImplementedError

    def _asked(self, defaults: Defaults) -> Completion:
        prompts = self.prompts
        body.check_number("n", self.n, prompts)
        best_of = body.first(self.best_of, self.n)
        if best_of < self.n:
            raise InvalidRequest("best_of must be at least n", param="best_of")
        if self.stream and best_of > self.n:
            raise InvalidRequest(
                "best_of above n cannot be streamed: the best are known at the end", param="best_of"
            )
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
    """Text, token ids, or a list of either."""
    suffix: str = ""
    """The text after the cursor. A model that cannot fill in goes without it."""

    @property
    def prompts(self) -> tuple[PromptText, ...]:
        """At least one."""
        return body.as_prompts(self.prompt)

    def _asked(self, defaults: Defaults) -> Completion:
        return replace(super()._asked(defaults), suffix=self.suffix or None)


class Segments(body.Body):
    """The texts before and after the cursor, and the name of the file that is edited."""

    prefix: str = ""
    suffix: str = ""
    filepath: str = ""


class TabbyRequest(CompletionFields):
    """Tabby's agent's, known by the lack of `prompt`."""

    key = "segments"

    segments: Segments

    @property
    def prompts(self) -> tuple[PromptText, ...]:
        """One."""
        return (self.segments.prefix,)

    def _asked(self, defaults: Defaults) -> Completion:
        s = self.segments
        return replace(super()._asked(defaults), suffix=s.suffix or None, filename=s.filepath)
