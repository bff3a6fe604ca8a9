"""End a completion where it begins to repeat the text after the cursor."""

from __future__ import annotations

import re
from itertools import takewhile

LONGEST = 1000  # characters of a line; longer ones (minified code, prose) are never compared
MOST_LINES = 8  # lines after the cursor that a repetition may need to be recognised
WHOLE_LINE = 8  # non-space characters of a line that cannot match by coincidence
REST_OF_LINE = 3  # the same for the rest of the cursor's line …
CLOSING_REST = 2  # … and for a rest that closes a bracket which the completion did not open
OPENERS = {")": "(", "]": "[", "}": "{", '"': "", "'": "", "`": ""}
CLOSES = re.compile(r"""\s*[)\]}"'`][)\]}"'`;:,\s]*""")


class Repetition:
    """End a completion before it repeats the suffix, and hold back text that may become a repetition.

    The *next lines* are the suffix's lines that are not blank, through the first below the cursor's with WHOLE_LINE
    non-space characters (at most MOST_LINES). The *rest* is what follows the cursor in its line.

    - No rest: the completion ends before the line from which on it has repeated all next lines. Blank lines do not
      count; in the completion's first line the indentation does not count either.
    - A rest that begins with a closing bracket or quote: the completion ends before a line's end that repeats the rest,
      if the completion did not open that bracket itself and the rest has CLOSING_REST non-space characters.
    - Any other rest: the same, in the first line only, from REST_OF_LINE non-space characters on.
    - A rest that is shorter, or comes in a later line, counts if all next lines follow it.
    - When generation ends by itself, the rest at the very end counts in any line, and so do next lines that consist of
      closing brackets and quotes that the completion did not open.

    Attributes:
        stopped: whether a repetition ended the completion before its own end.
    """

    def __init__(self, follows: str) -> None:
        lines = follows[: LONGEST * (MOST_LINES + 1)].split("\n")
        if len(follows) > LONGEST * (MOST_LINES + 1):
            lines.pop()  # cut in the middle
        lines = [line.rstrip() for line in lines]
        # A carriage return inside a line is nothing that people write after a cursor.
        lines = list(takewhile(lambda line: "\r" not in line, lines)) or [""]
        self._rest = lines[0]
        self._next, self._decides = _next_lines(lines)
        first = self._next[0].lstrip()[:1] if self._next else ""
        self._closer = first if first in OPENERS else ""
        self._text = ""  # from the beginning of the first line that is still undecided
        self._n_sent = 0  # characters of it that were let through
        self._is_begin = True  # whether it begins with the completion's first line
        self._depth = 0  # brackets open at its beginning
        self.stopped = False

    def feed(self, text: str) -> str:
        """Return the text that is certain now; if a repetition is found, the text before it."""
        if not self._next:
            return text
        self._text += text
        cut, held = self._look(is_end=False)
        self.stopped = cut is not None
        out = self._send(held if cut is None else cut)
        done = self._text.rfind("\n", 0, held) + 1
        if done:  # these lines are decided
            if self._closer:
                self._depth = max(0, self._depth_at(done))
            self._text, self._n_sent = self._text[done:], self._n_sent - done
            self._is_begin = False
        return out

    def finish(self) -> str:
        """Return the held text, less what repeats."""
        if not self._next:
            return ""
        cut, _ = self._look(is_end=True)
        return self._send(len(self._text) if cut is None else cut)

    def _send(self, end: int) -> str:
        out = self._text[self._n_sent : end]
        self._n_sent = max(self._n_sent, end)
        return out

    def _look(self, *, is_end: bool) -> tuple[int | None, int]:
        """Return where a repetition begins, and up to where the text is certain if there is none."""
        lines = [line.removesuffix("\r") for line in self._text.split("\n")]
        found: list[tuple[int, int]] = []  # (line that decides, beginning)
        held = len(self._text) - self._text.endswith("\r")
        at = 0
        for i, line in enumerate(lines):
            is_last = i == len(lines) - 1
            if self._rest and is_last and not is_end:
                held = min(held, at + len(line) - overlap(line, self._rest))
            start = self._start(i, at, line)
            if start is not None and (not self._rest or not is_last or is_end):
                is_first = self._is_begin and i == 0
                decided, is_open = self._follow(lines, i, start, is_first=is_first, is_end=is_end)
                if decided is not None:
                    found.append((decided, start))
                elif is_open:
                    held = min(held, start)
            at = self._text.find("\n", at) + 1
        # While text is added, the line that decides first ends it; at the end the earliest beginning counts.
        if is_end:
            found = [(0, start) for _, start in found]
        return (min(found)[1] if found else None), held

    def _start(self, i: int, at: int, line: str) -> int | None:
        """Where a repetition that shows in line `i` would begin."""
        if self._rest:
            return at + len(line) - len(self._rest) if line.endswith(self._rest) else None
        if i == 0:
            return 0 if self._is_begin else None
        return at - 1 - (self._text[at - 2 : at - 1] == "\r")

    def _follow(
        self, lines: list[str], i: int, start: int, *, is_first: bool, is_end: bool
    ) -> tuple[int | None, bool]:
        """Return the line that completes a repetition from line `i` on, and whether one may still come."""
        n = 0
        if self._rest:
            n = 1
            weight, least = _weight(self._rest), CLOSING_REST if self._closer else REST_OF_LINE
            if self._closer and not self._is_foreign(start):
                return None, False
            is_over = i == len(lines) - 1
            if weight >= least and (self._closer or is_first or is_over):
                return i, False
            if is_over:
                return (i if self._are_closing(1) else None), False
            i += 1
        for j in range(i, len(lines)):
            line, is_last = lines[j], j == len(lines) - 1
            expected = self._next[n] if n < len(self._next) else ""
            if is_first and j == 0 and n == 0:  # the prompt may hold its indentation
                line, expected = line.lstrip(), expected.lstrip()
            if is_last and not is_end:
                return None, expected.startswith(line)
            if line.strip() and line == expected:
                n += 1
                if self._decides and n == len(self._next):
                    return j, False
            elif line.strip() or not n or not expected.startswith(line) or (is_last and line):
                return None, False  # anything but a blank line within the repetition
        is_whole = is_end and self._are_closing(n) and self._is_foreign(start)
        return (len(lines) - 1 if is_whole else None), False

    def _are_closing(self, n: int) -> bool:
        return n > 0 and all(CLOSES.fullmatch(line) for line in self._next[:n])

    def _is_foreign(self, start: int) -> bool:
        """Whether the bracket or quote at `start` closes nothing that the completion opened."""
        return bool(self._closer) and self._depth_at(start) == 0

    def _depth_at(self, end: int) -> int:
        """Return how many brackets of the closer's kind are open before `end`; -1 inside of a string."""
        depth, quote, is_escaped = self._depth, "", False
        for char in self._text[:end]:
            if char == "\n":
                quote, is_escaped = "", False
            elif is_escaped:
                is_escaped = False
            elif char == "\\":
                is_escaped = True
            elif quote:
                quote = "" if char == quote else quote
            elif char in "\"'`":
                quote = char
            elif char == OPENERS[self._closer]:
                depth += 1
            elif char == self._closer:
                depth = max(0, depth - 1)
        return -1 if quote else depth


def _next_lines(lines: list[str]) -> tuple[list[str], bool]:
    """Return the lines that must be repeated, and whether they are enough to decide."""
    found: list[str] = []
    for i, line in enumerate(lines):
        if len(line) > LONGEST or len(found) == MOST_LINES:
            break
        if line:
            found.append(line)
        if i > 0 and _weight(line) >= WHOLE_LINE:
            return found, True
    return found, False


def overlap(text: str, following: str) -> int:
    """Return the length of the longest end of `text` that begins `following`, or is all of it."""
    at = max(0, len(text) - len(following))
    while (at := text.find(following[0], at)) >= 0:
        if following.startswith(text[at:]):
            return len(text) - at
        at += 1
    return 0


def _weight(line: str) -> int:
    """Return the number of non-space characters."""
    return len("".join(line.split()))
