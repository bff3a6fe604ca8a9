"""Base classes of the dialects: a request, the rendering of its answers, and their framing as bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final, Generic, TypeAlias, TypeVar

from pydantic import BeforeValidator, WithJsonSchema

from serve.api.body import Body, Positive
from serve.api.tokens import PlacedToken, PlacedTokens
from serve.models.service import Completion, CompletionService
from serve.request import ChosenToken, Finished, PromptScored, TextDelta, Usage
from serve.runner.generation import Answer
from serve.settings import Defaults

Json: TypeAlias = Mapping[str, object]
D = TypeVar("D", bound="Dialect")

ModelName = Annotated[
    str, BeforeValidator(lambda v: v if isinstance(v, str) else ""), WithJsonSchema({})
]
# Why a text ended; "cancelled" only in a stream, where a newer request of the session took its place.
Ends = Annotated[str, WithJsonSchema({"enum": ["stop", "length"]})]
ChunkEnds = Annotated[str | None, WithJsonSchema({"enum": ["stop", "length", "cancelled", None]})]


def json_bytes(value: Json | Sequence[Json]) -> bytes:
    """One line of UTF-8; halves of surrogate pairs, which an error may quote, become "?".

    Compact: llama.vim looks for `"content":"` in the bytes, and a space disables it silently.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Framing:
    """How a stream is cut into pieces: each is `before`, JSON and `after`, and `end` comes after the last.

    Attributes:
        mimetype: its Content-Type.
        about: the same in words.
    """

    mimetype: str
    about: str
    before: bytes
    after: bytes
    end: bytes = b""

    def piece(self, value: Json) -> bytes:
        """One piece of the stream."""
        return self.before + json_bytes(value) + self.after


_EVENTS: Final = ("text/event-stream", "Server-sent events: `data:` and JSON.", b"data: ", b"\n\n")
SSE: Final = Framing(*_EVENTS, b"data: [DONE]\n\n")
SSE_WITHOUT_DONE: Final = Framing(*_EVENTS)
NDJSON: Final = Framing("application/x-ndjson", "A line of JSON for each piece.", b"", b"\n")


class Rendering(Generic[D]):
    """The answer to one request. `truncated`: whether something was given up so that it fits."""

    def __init__(self, request: D, service: CompletionService, *, truncated: bool) -> None:
        self._request, self._truncated = request, truncated
        self._model = service.model.name
        self._placed: dict[int, PlacedTokens] = {}

    def whole(self, answer: Answer) -> Json | list[Json]:
        """The answer in one piece."""
        raise NotImplementedError

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterable[Json]:
        """The pieces of a stream that the event of a choice allows; perhaps none yet."""
        return ()

    def end(self, index: int, event: Finished) -> Json:
        """The piece that ends a choice."""
        raise NotImplementedError

    def last(self, usage: Usage) -> Iterable[Json]:
        """The pieces that end the stream."""
        return ()

    def _place(
        self, index: int, tokens: Iterable[ChosenToken], n_characters: int, start: int = 0
    ) -> list[PlacedToken]:
        """The tokens that are certain now; see `PlacedTokens`."""
        if index not in self._placed:
            self._placed[index] = PlacedTokens(start)
        return self._placed[index].feed(tokens, n_characters)


class Dialect(Body):
    """A request for completions, as one kind of client sends it.

    Attributes:
        key: the field that tells it from others at the same address.
        example: a body.
        framing: of a stream; None if the answer always comes in one piece.
        rendering: makes the answer.
        answer: type of the whole answer,
        chunk: and of a stream's pieces.
    """

    key: ClassVar[str] = ""
    example: ClassVar[dict[str, Any]]
    framing: ClassVar[Framing | None] = SSE
    rendering: ClassVar[type[Rendering[Any]]]
    answer: ClassVar[Any]
    chunk: ClassVar[Any] = None

    model: ModelName = ""
    """The model by its name; an unknown name means the default model."""
    stream: bool = False
    """Send the text as it is generated."""
    deadline_ms: Positive = 0.0
    """Milliseconds after which the answer is of no use any more: it ends with the text there is. 0 is the server's own
    limit, which this only shortens."""

    def completion(self, defaults: Defaults) -> Completion:
        """The completion that is asked for. Raises InvalidRequest if fields contradict each other."""
        return replace(self._asked(defaults), deadline=self.deadline_ms / 1000 or None)

    def _asked(self, defaults: Defaults) -> Completion:
        raise NotImplementedError

    def fitted(self, completion: Completion, service: CompletionService) -> Completion:
        """The completion with what only the model can tell."""
        return completion

    def at_once(self, service: CompletionService) -> Json | None:
        """The answer to a request that needs no computing, as one that only loads the model."""
        return None
