"""Base classes of the API dialects: a request, the rendering of its response, and the framing of streams."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final, Generic, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from serve.api.body import Body, Positive
from serve.api.lora import LoraScales, by_index
from serve.api.tokens import PlacedToken, PlacedTokens
from serve.models.completion import Completion
from serve.models.service import CompletionService
from serve.request import ChosenToken, Event, Finished, PromptScored, TextDelta, Usage
from serve.runner.generation import Answer
from serve.settings import Defaults

Json: TypeAlias = Mapping[str, object]
D = TypeVar("D", bound="Dialect")

ModelName = Annotated[
    str, BeforeValidator(lambda v: v if isinstance(v, str) else ""), WithJsonSchema({})
]
# Why a text ended. "cancelled" occurs only in a stream: a newer request of the same session ended it.
Ends = Annotated[str, WithJsonSchema({"enum": ["stop", "length"]})]
ChunkEnds = Annotated[str | None, WithJsonSchema({"enum": ["stop", "length", "cancelled", None]})]


def json_bytes(value: Json | Sequence[Json]) -> bytes:
    """Return a value as compact JSON in UTF-8, on one line. Lone surrogates, which errors may quote, become "?".

    llama.vim searches the bytes for `"content":"`: with a space after the colon, it would silently show nothing.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Framing:
    """Framing of a stream: each chunk is `before`, JSON and `after`; `end` comes after the last chunk.

    Attributes:
        mimetype: Content-Type of the stream.
        about: description for `/openapi.json`.
    """

    mimetype: str
    about: str
    before: bytes
    after: bytes
    end: bytes = b""

    def piece(self, value: Json) -> bytes:
        """Return one chunk of the stream."""
        return self.before + json_bytes(value) + self.after


_EVENTS: Final = (
    "text/event-stream",
    "Server-sent events with JSON in `data:`.",
    b"data: ",
    b"\n\n",
)
SSE: Final = Framing(*_EVENTS, b"data: [DONE]\n\n")
SSE_WITHOUT_DONE: Final = Framing(*_EVENTS)
NDJSON: Final = Framing("application/x-ndjson", "One JSON object per line.", b"", b"\n")


class Rendering(Generic[D]):
    """Renderer of the response to one request. `truncated`: whether the prompt or completion was cut to fit."""

    def __init__(self, request: D, service: CompletionService, *, truncated: bool) -> None:
        self._request, self._truncated = request, truncated
        self._model = service.model.name
        self._placed: dict[int, PlacedTokens] = {}

    def whole(self, answer: Answer) -> Json | list[Json]:
        """Return the whole response."""
        raise NotImplementedError

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterable[Json]:
        """Return the stream chunks for an event of a choice; there may be none yet."""
        return ()

    def end(self, index: int, event: Finished) -> Json:
        """Return the chunk that ends a choice."""
        raise NotImplementedError

    def chunks(self, events: Iterable[tuple[int, Event]]) -> Iterator[Json]:
        """Yield the stream chunks for (index of the choice, event) pairs."""
        for index, event in events:
            if isinstance(event, Finished):
                yield self.end(index, event)
            else:
                yield from self.part(index, event)

    def last(self, usage: Usage) -> Iterable[Json]:
        """Return the chunks that end the stream."""
        return ()

    def _place(
        self, index: int, tokens: Iterable[ChosenToken], n_characters: int, start: int = 0
    ) -> list[PlacedToken]:
        """Return the tokens that can be sent now; see `PlacedTokens`."""
        if index not in self._placed:
            self._placed[index] = PlacedTokens(start)
        return self._placed[index].feed(tokens, n_characters)


class Dialect(Body):
    """A request for completions in one API dialect.

    Attributes:
        key: field that distinguishes this dialect from others on the same route.
        example: example of a request body.
        framing: framing of a stream; None if the dialect does not stream.
        mimetype: Content-Type of the whole response, which is one line of JSON.
        rendering: renderer of the response.
        answer: type of the whole response.
        chunk: type of a stream's chunks.
    """

    key: ClassVar[str] = ""
    example: ClassVar[dict[str, Any]]
    framing: ClassVar[Framing | None] = SSE
    mimetype: ClassVar[str] = "application/json"
    rendering: ClassVar[type[Rendering[Any]]]
    answer: ClassVar[Any]
    chunk: ClassVar[Any] = None

    model: ModelName = ""
    """Name of the model; an unknown name means the default model."""
    stream: bool = False
    """Send the text as it is generated."""
    deadline_ms: Positive = 0.0
    """Time limit in milliseconds; the completion then ends with the text generated so far. It can only shorten the
    server's limit; 0 means the server's limit."""
    lora: LoraScales = Field(default=[])
    """Scales of LoRA adapters for this request; adapters that are missing are off. An empty list means the server's
    scales, and so does any list unless the server was started with `--lora-switch`."""

    def completion(self, defaults: Defaults) -> Completion:
        """Return the requested completion. Raise InvalidRequest if fields contradict each other."""
        deadline = self.deadline_ms / 1000 or None
        return replace(self._asked(defaults), deadline=deadline, lora=by_index(self.lora))

    def _asked(self, defaults: Defaults) -> Completion:
        raise NotImplementedError

    def fitted(self, completion: Completion, service: CompletionService) -> Completion:
        """Return the completion with the fields that depend on the loaded model, such as a chat prompt."""
        return completion

    def at_once(self, service: CompletionService) -> Json | None:
        """Return the response to a request that needs no computation, such as one that only loads the model."""
        return None
