"""Rule that ends a completion before it repeats the suffix."""

from __future__ import annotations

import re
from itertools import takewhile

LONGEST = 1000  # characters of a line; longer lines (minified code, prose) are never compared
MOST_LINES = 8  # maximum number of lines after the cursor that a repetition must match
# Fewest non-space characters that do not match by coincidence:
WHOLE_LINE = 8  # in a whole line
REST_OF_LINE = 3  # in the rest of the cursor's line
CLOSING_REST = 2  # in a rest that closes a bracket which the completion did not open
OPENERS = {")": "(", "]": "[", "}": "{", '"': "", "'": "", "`": ""}
CLOSES = re.compile(r"""\s*[)\]}"'`][)\]}"'`;:,\s]*""")


class Repetition:
    """Ends a completion before it repeats the suffix, and holds back text that may become a repetition.

    The *next lines* are the suffix's lines that are not blank, up to and including the first line below the cursor's
    with at least WHOLE_LINE non-space characters (at most MOST_LINES lines). The *rest* is the text after the cursor in
    its line.

    - Without a rest, the completion ends before the line at which it begins to repeat all next lines. Blank lines are
      ignored, and so is the indentation of the completion's first line.
    - If the rest begins with a closing bracket or quote, the completion ends before it repeats the rest at the end of a
      line, provided that the completion did not open that bracket and the rest has at least CLOSING_REST non-space
      characters.
    - For any other rest, the same applies, but only in the first line and from REST_OF_LINE non-space characters on.
    - A shorter rest, or a rest in a later line, is a repetition only if all next lines follow it.
    - When the model ends generation, the rest at the very end is a repetition in any line, and so are next lines that
      consist of closing brackets and quotes which the completion did not open.

    Attributes:
        stopped: whether a repetition ended the completion.
    """

    def __init__(self, follows: str) -> None:
        lines = follows[: LONGEST * (MOST_LINES + 1)].split("\n")
        if len(follows) > LONGEST * (MOST_LINES + 1):
            lines.pop()  # cut in the middle
        lines = [line.rstrip() for line in lines]
        # Real code has no carriage return inside a line: ignore the suffix from there on.
        lines = list(takewhile(lambda line: "\r" not in line, lines)) or [""]
        self._rest = lines[0]
        self._next, self._decides = _next_lines(lines)
        first = self._next[0].lstrip()[:1] if self._next else ""
        self._closer = first if first in OPENERS else ""
        self._text = ""  # the text from the beginning of the first undecided line
        self._n_sent = 0  # number of its characters that were returned
        self._is_begin = True  # whether it begins with the completion's first line
        self._depth = 0  # number of brackets open at its beginning
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
        """Return the text that was held back, without a repetition at its end."""
        if not self._next:
            return ""
        cut, _ = self._look(is_end=True)
        return self._send(len(self._text) if cut is None else cut)

    def _send(self, end: int) -> str:
        out = self._text[self._n_sent : end]
        self._n_sent = max(self._n_sent, end)
        return out

    def _look(self, *, is_end: bool) -> tuple[int | None, int]:
        """Return the offset at which a repetition begins, if any, and the offset up to which the text is certain."""
        lines = [line.removesuffix("\r") for line in self._text.split("\n")]
        # (line that completes a repetition, offset at which the repetition begins)
        found: list[tuple[int, int]] = []
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
        # During generation, the repetition that is complete first ends the text; at the end, the one that begins first.
        if is_end:
            found = [(0, start) for _, start in found]
        return (min(found)[1] if found else None), held

    def _start(self, i: int, at: int, line: str) -> int | None:
        """Return the offset at which a repetition that is first seen in line `i` would begin; None if impossible."""
        if self._rest:
            return at + len(line) - len(self._rest) if line.endswith(self._rest) else None
        if i == 0:
            return 0 if self._is_begin else None
        return at - 1 - (self._text[at - 2 : at - 1] == "\r")

    def _follow(
        self, lines: list[str], i: int, start: int, *, is_first: bool, is_end: bool
    ) -> tuple[int | None, bool]:
        """Return the line that completes a repetition from line `i` on, and whether later text may complete one."""
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
            if is_first and j == 0 and n == 0:  # the indentation may be in the prompt
                line, expected = line.lstrip(), expected.lstrip()
            if is_last and not is_end:
                return None, expected.startswith(line)
            if line.strip() and line == expected:
                n += 1
                if self._decides and n == len(self._next):
                    return j, False
            elif line.strip() or not n or not expected.startswith(line) or (is_last and line):
                return None, False  # not a blank line within the repetition
        is_whole = is_end and self._are_closing(n) and self._is_foreign(start)
        return (len(lines) - 1 if is_whole else None), False

    def _are_closing(self, n: int) -> bool:
        return n > 0 and all(CLOSES.fullmatch(line) for line in self._next[:n])

    def _is_foreign(self, start: int) -> bool:
        """Return whether the bracket or quote at `start` closes one that the completion did not open."""
        return bool(self._closer) and self._depth_at(start) == 0

    def _depth_at(self, end: int) -> int:
        """Return how many brackets of the closer's kind are open before `end`; -1 inside a string literal."""
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
    """Return the next lines, and whether repeating all of them is enough to recognise a repetition."""
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
    """Return the length of the longest suffix of `text` that is a prefix of `following`."""
    at = max(0, len(text) - len(following))
    while (at := text.find(following[0], at)) >= 0:
        if following.startswith(text[at:]):
            return len(text) - at
        at += 1
    return 0


def _weight(line: str) -> int:
    """Return the number of non-space characters."""
    return len("".join(line.split()))
