"""How a dialect answers: what every one of them can do with a generation's events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeAlias

from serve.request import Finished, PromptScored, TextDelta, Usage
from serve.runner.generation import Answer

Json: TypeAlias = Mapping[str, object]


class Whole(Protocol):
    """An answer that comes in one piece."""

    def whole(self, answer: Answer) -> Json | list[Json]:
        """The answer in one piece."""


class Rendering(Whole, Protocol):
    """One that may come in parts, too. `index` is that of the choice."""

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterable[Json]:
        """What a stream says of it; perhaps nothing yet."""

    def end(self, index: int, event: Finished) -> Json:
        """What ends a choice in a stream."""

    def last(self, usage: Usage) -> Iterable[Json]:
        """What ends the stream."""
