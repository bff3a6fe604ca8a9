"""Rule that ends a completion in a loop: small models repeat a line or a phrase until `max_tokens`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

# Times that a unit may follow itself: whole lines twice, a part of a line three times.
MOST_LINES: Final = 2
MOST_PHRASES: Final = 3
# A unit may be repeated more often if its copies together have fewer non-space characters: `}`, `0, `, `pass`.
LEAST_WEIGHT: Final = 24
# The same for a unit of fewer than DISTINCT different characters: rulers of a comment, rows of numbers.
LEAST_WEIGHT_OF_RULER: Final = 100
DISTINCT: Final = 3
# Characters of a unit, and of the text that is searched.
LONGEST: Final = 512
KEPT: Final = 4 * LONGEST
# The last characters, whose earlier occurrences are candidates for the length of the unit, and how many are compared.
TAIL: Final = 12
CANDIDATES: Final = 8


class Loops:
    """Ends a completion before a unit of text is repeated once too often, and holds back text that may complete it.

    A unit is one or more whole lines, or a part of a line. Lines may occur twice in a row and a part of a line three
    times; what has few characters may occur more often.

    Args:
        line: text before the completion in its first line.

    Attributes:
        stopped: whether a loop ended the completion.
    """

    def __init__(self, line: str = "") -> None:
        self._text = line[-LONGEST:]  # the latest text
        self._n_sent = len(self._text)  # number of its characters that were returned
        self._open: dict[
            int, int
        ] = {}  # length of a unit → offset of the copy that would be one too many
        self.stopped = False

    def feed(self, text: str) -> str:
        """Return the text that is certain now; in a loop, the text before the last copy of its unit."""
        out = ""
        for char in text:
            self._append(char)
            for length, last in self._open.items():
                if len(self._text) - last >= length:
                    self.stopped = True
                    return out + self._send(last)
            out += self._send(min(self._open.values(), default=len(self._text)))
        return out

    def finish(self) -> str:
        """Return the text that was held back, without a last line that lacks only its newline to complete a loop."""
        held, start = self._text[self._n_sent :], self._n_sent
        self._append("\n")
        ends = [at for length, at in self._open.items() if len(self._text) - at == length]
        return held[: max(0, min(ends) - start)] if ends else held

    def _append(self, char: str) -> None:
        self._text += char
        text, n = self._text, len(self._text)
        self._open = {k: at for k, at in self._open.items() if text[-1 - k] == char}
        for length in self._lengths():
            if length not in self._open and (last := self._last_copy(length)) < n:
                self._open[length] = last

    def _send(self, end: int) -> str:
        out = self._text[self._n_sent : end]
        self._n_sent = max(self._n_sent, end)
        if (excess := min(len(self._text) - KEPT, self._n_sent)) > LONGEST:
            self._text, self._n_sent = self._text[excess:], self._n_sent - excess
            self._open = {k: at - excess for k, at in self._open.items()}
        return out

    def _lengths(self) -> Iterator[int]:
        """Yield possible lengths of a unit of which at least two copies end the text, shortest first."""
        text, n = self._text, len(self._text)
        tail = text[-TAIL:]
        end = n - 1
        for _ in range(CANDIDATES):
            at = text.rfind(tail, max(0, n - LONGEST - TAIL), end)
            if at < 0:
                return
            end = at + len(tail)
            length = n - end
            if text[n - 2 * length : end] == text[end:]:
                yield length
            end -= 1

    def _last_copy(self, length: int) -> int:
        """Return the offset of the copy that would be one too many; the text's length or more if there is none yet."""
        text, n = self._text, len(self._text)
        unit = text[n - length :]
        dense = "".join(unit.split())
        if not dense:
            return n
        most = MOST_LINES if "\n" in unit else MOST_PHRASES
        least = LEAST_WEIGHT if len(set(dense)) >= DISTINCT else LEAST_WEIGHT_OF_RULER
        most = max(most, -(-least // len(dense)) - 1)
        start = n - 2 * length
        while start and text[start - 1] == text[start - 1 + length]:
            start -= 1
        last = start + most * length
        if "\n" in unit and last < n:
            last = text.find("\n", last - 1) + 1 or n
        return last
