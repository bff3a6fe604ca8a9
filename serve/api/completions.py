"""OpenAI's legacy completions: FauxPilot's engines and Tabby's agent send the same."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from typing_extensions import NotRequired, TypedDict

from serve.api import body
from serve.api.dialect import ChunkEnds, Dialect, Ends, Json, Rendering
from serve.api.sampling import SamplingFields, server_default
from serve.api.tokens import LegacyLogprobs, legacy_logprobs
from serve.models.generation import Answer, Choice
from serve.models.service import Completion, CompletionService
from serve.prompt.window import PromptText
from serve.request import ChosenToken, Finished, PromptScored, TextDelta, Usage
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
    """What an answer and each chunk of a stream begin with."""

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
    """What the answers of completions and chat share."""

    kinds: ClassVar[tuple[str, str, str]]
    """Beginning of the id, `object` of an answer and of a chunk."""

    def __init__(self, request: R, service: CompletionService, *, truncated: bool) -> None:
        super().__init__(request, service, truncated=truncated)
        self._id, self._created = f"{self.kinds[0]}-{uuid.uuid4().hex}", int(time.time())
        self._no_usage: Json = {"usage": None} if request.stream_options.include_usage else {}

    def whole(self, answer: Answer) -> Json:
        """One object with all choices."""
        return {
            **self._head(1),
            "choices": [self._choice(i, c) for i, c in enumerate(answer.choices)],
            "usage": usage_json(answer.usage),
            "truncated": self._truncated,
        }

    def _choice(self, index: int, choice: Choice) -> Json:
        raise NotImplementedError

    def last(self, usage: Usage) -> Iterator[Json]:
        """A chunk with the token counts, if they are wanted."""
        if self._no_usage:
            yield {**self._head(2), "choices": [], "usage": usage_json(usage)}

    def _chunk(self, delta: Json) -> dict[str, object]:
        return {**self._head(2), "choices": [delta], **self._no_usage}

    def _end(self, delta: Json) -> Json:
        return {**self._chunk(delta), "truncated": self._truncated}

    def _head(self, kind: int) -> OpenAiHead:
        return {
            "id": self._id,
            "object": self.kinds[kind],
            "created": self._created,
            "model": self._model,
        }


class CompletionRendering(OpenAiRendering["CompletionFields"]):
    """A text for each choice, after the prompt if that is wanted."""

    kinds = ("cmpl", "text_completion", "text_completion")

    def __init__(
        self, request: CompletionFields, service: CompletionService, *, truncated: bool
    ) -> None:
        super().__init__(request, service, truncated=truncated)
        needs_prompts = request.echo or request.n_logprobs is not None
        self._prompts = [service.text(p) for p in request.prompts] if needs_prompts else []
        self._echoed: set[int] = set()

    def _choice(self, index: int, choice: Choice) -> CompletionChoice:
        text = self._echo(index) + choice.text
        logprobs = self._logprobs(index, (*choice.prompt_tokens, *choice.tokens), len(text))
        return {**_delta(index, text, logprobs), "finish_reason": choice.finish_reason}

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterator[Json]:
        """A chunk, unless nothing of the text is certain yet."""
        text = self._echo(index) + event.text if isinstance(event, TextDelta) else ""
        logprobs = self._logprobs(index, event.tokens, len(text))
        if text or (logprobs and logprobs["tokens"]):
            yield self._chunk(_delta(index, text, logprobs))

    def end(self, index: int, event: Finished) -> Json:
        """A chunk without text; with the prompt's if nothing was generated."""
        text = self._echo(index)
        logprobs = self._logprobs(index, (), len(text)) if text else None
        return self._end(_delta(index, text, logprobs, event.reason))

    def _prompt(self, index: int) -> str:
        return self._prompts[index // self._request.n]

    def _echo(self, index: int) -> str:
        """The prompt, once for each choice."""
        if not self._request.echo or index in self._echoed:
            return ""
        self._echoed.add(index)
        return self._prompt(index)

    def _logprobs(
        self, index: int, tokens: Iterable[ChosenToken], n_characters: int
    ) -> LegacyLogprobs | None:
        n = self._request.n_logprobs
        if n is None:
            return None
        # As in OpenAI's answers, places count from the beginning of the prompt, echoed or not.
        start = 0 if self._request.echo else len(self._prompt(index))
        return legacy_logprobs(self._place(index, tokens, n_characters, start), n)


def _delta(
    index: int, text: str, logprobs: LegacyLogprobs | None, reason: str | None = None
) -> CompletionDelta:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


class StreamOptions(body.Body):
    """Options of a stream."""

    include_usage: bool = False
    """End the stream with a chunk that has the token counts and no choices."""


class OpenAiRequest(SamplingFields, Dialect):
    """The fields that OpenAI's and Mistral's requests share."""

    max_tokens: body.Count | None = server_default("max_tokens")
    """Most tokens to generate; more than fits is cut, 0 only warms the cache."""
    stream_options: StreamOptions = StreamOptions()

    @property
    def n_logprobs(self) -> int | None:
        """Of how many likeliest tokens log probabilities are wanted; None wants none at all."""
        return None


class CompletionFields(OpenAiRequest):
    """A legacy completion, but for its prompt."""

    rendering = CompletionRendering
    answer: ClassVar[Any] = CompletionAnswer
    chunk: ClassVar[Any] = CompletionChunk

    n: body.Choices = 1
    """Texts for each prompt; times prompts at most 128."""
    best_of: body.Choices | None = None
    """Texts that are generated for each prompt, of which the `n` likeliest are returned; at least `n`, and no more
    than that in a stream."""
    echo: bool = False
    """Begin the text with the prompt; with `logprobs` its tokens are scored, too."""
    logprobs: (
        Annotated[
            body.TopLogprobs | Literal[False],
            body.Alternatives(f"a whole number from 0 to {body.MAX_LOGPROBS}"),
        ]
        | None
    ) = None
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
    example: ClassVar[dict[str, Any]] = {
        "prompt": "def add(a, b):\n    return",
        "max_tokens": 16,
        "stop": ["\n\n"],
    }

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
    """Tabby's form of a prompt."""

    prefix: str = ""
    """The text before the cursor."""
    suffix: str = ""
    """The text after the cursor."""
    filepath: str = ""
    """Name of the file that is edited."""


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
