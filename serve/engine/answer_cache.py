"""Cache of completions at temperature 0."""

from __future__ import annotations

from collections.abc import Iterable

# Maximum number of cached tokens: about 10 MB of Python objects, or a few thousand completions.
MOST_ANSWERS = 65_536


def name_of(tokens: Iterable[int], before: int = 0) -> int:
    """Return the 64-bit name of a token sequence; `before` is the name of the sequence that these tokens continue."""
    for token in tokens:
        before = hash((before, token))
    return before


class AnswerCache:
    """Cache of the next token of token sequences that were continued before.

    Greedy generation depends only on the preceding tokens, so a sequence that was continued before needs no
    computation: after a backspace in the editor, in a second window, or while the user types the text of a completion.
    The keys are 64-bit names of sequences; the length is compared too, so only sequences of equal length can collide.
    When the cache is full, the half that was not used recently is dropped.
    """

    def __init__(self, most: int = MOST_ANSWERS) -> None:
        self._half = max(1, most // 2)
        self._young: dict[int, tuple[int, int]] = {}  # name → (length, next token)
        self._old: dict[int, tuple[int, int]] = {}

    def learn(self, name: int, length: int, token: int) -> None:
        """Store `token` as the next one of a sequence."""
        self._young[name] = (length, token)
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}

    def next(self, name: int, length: int) -> int | None:
        """Return the sequence's next token, or None if it is not cached."""
        found = self._young.get(name)
        if found is None and (found := self._old.get(name)) is not None:
            self._young[name] = found
        return found[1] if found and found[0] == length else None
