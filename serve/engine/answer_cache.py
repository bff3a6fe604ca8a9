"""The next token of texts that were continued before.

Greedy generation is a function of the tokens before it. Whoever asks for the continuation of a text that was
continued already (an editor after a backspace, a second window, a completion that is typed along) gets it from
here without computation.
"""

from __future__ import annotations

from collections.abc import Iterable

# About 10 MB of Python objects when full: some thousand completions.
MOST = 65_536
START = 0


def chain(before: int, token: int) -> int:
    """Return the name (64 bits) of a sequence, from that of the sequence without its last token."""
    return hash((before, token))


def chain_all(tokens: Iterable[int], before: int = START) -> int:
    """Return the name of a whole sequence."""
    for token in tokens:
        before = hash((before, token))
    return before


class KnownTokens:
    """Names of sequences → (their length, their next token). The half that was not used lately is forgotten.

    The length makes a collision of two names harmless but for sequences of one length.
    """

    def __init__(self, most: int = MOST) -> None:
        self._half = max(1, most // 2)
        self._young: dict[int, tuple[int, int]] = {}
        self._old: dict[int, tuple[int, int]] = {}

    def learn(self, name: int, length: int, token: int) -> None:
        """Remember that `token` follows the sequence."""
        self._young[name] = (length, token)
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}

    def next(self, name: int, length: int) -> int | None:
        """Return what follows the sequence, if it is known."""
        found = self._young.get(name)
        if found is None and (found := self._old.get(name)) is not None:
            self._young[name] = found
        return found[1] if found and found[0] == length else None
