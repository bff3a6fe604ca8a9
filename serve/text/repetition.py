"""Where a suggestion comes to repeat the text after the cursor. Knows nothing of models, HTTP or threads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile

LONGEST = 1000  # characters of a line; in a longer one (minified, or prose) nothing is looked for
MOST_LINES = 8  # of the text after the cursor that a repetition may take to show itself
WHOLE_LINE = 8  # non-space characters of a line that is no coincidence
REST_OF_LINE = 3  # non-space characters of the rest of the current line that are no coincidence …
CLOSING_REST = 2  # … and where it closes a bracket that the suggestion did not open
OPENERS = {")": "(", "]": "[", "}": "{", '"': "", "'": "", "`": ""}
CLOSES = re.compile(r"""\s*[)\]}"'`][)\]}"'`;:,\s]*""")


@dataclass(frozen=True, slots=True)
class _Open:
    """A repetition that may be under way: it begins at `start`, in line `line`; `n` lines agree in whole."""

    start: int
    n: int
    line: int


class Repetition:
    """Ends a suggestion before it repeats the text after the cursor, and holds back what may become that.

    Let the *next lines* be the lines after the cursor's that are not blank, through the first with 8
    non-space characters (at most 8 lines). Where nothing but space stands after the cursor in its line,
    the suggestion ends

    - before the line from which on it has repeated the next lines, indentation included, but for its own
      first line, whose indentation may be the prompt's. Blank lines do not count. A lone `}` or `return`
      is thus never enough by itself.

    Otherwise let the *rest* be what stands after the cursor in its line. The suggestion ends before the
    rest where the rest ends a line of the suggestion, and

    - it begins with a closing bracket or quote that nothing in the suggestion opens, and has 2 non-space
      characters: `x, y):` before `):`; or
    - it begins with something else, has 3 non-space characters, and this is the suggestion's first line; or
    - the next lines follow it.

    A rest that begins with a closing bracket or quote which the suggestion opened is its own, never a
    repetition.

    When the suggestion ends otherwise, and its end agrees with the beginning of the text after the cursor
    over whole lines, it is cut before them where they are as much as above (in any line), or consist of
    closing brackets and quotes alone, the first of which nothing in the suggestion opens.

    Brackets are counted by kind, outside of strings that begin and end in one line of the suggestion.

    What is held back is at most the next lines, and blank lines among them.

    Attributes:
        stopped: whether a repetition ended the suggestion, before its own end.
    """

    def __init__(self, follows: str) -> None:
        head = follows[: LONGEST * (MOST_LINES + 1)].split("\n")
        if len(follows) > LONGEST * (MOST_LINES + 1):
            head.pop()  # it goes on
        lines = [line.rstrip() for line in head]
        # A carriage return that ends no line is nothing that people write after a cursor.
        lines = list(takewhile(lambda line: "\r" not in line, lines)) or [""]
        self._rest = lines[0]
        self._lines, self._decides = _next_lines(lines)
        first = self._lines[0].lstrip()[:1] if self._lines else ""
        self._closer = first if first in OPENERS else ""
        self._held = ""
        self._end = 0  # characters fed
        self._brackets = _Brackets(self._closer)  # of what was let through
        self._line = ""  # the beginning of the suggestion's current line
        self._tail = ""  # its end
        self._n_line = 0
        self._open = [] if self._rest else [_Open(0, 0, 0)]
        self.stopped = False

    def feed(self, text: str) -> str:
        """Text that is certain now; when a repetition is found, what is left before it."""
        if not self._lines:
            return text
        for part in re.findall(r"[^\n]*\n|[^\n]+", text):
            body = part.removesuffix("\n")
            self._held += part
            self._end += len(part)
            self._line += body[: LONGEST + 2 - len(self._line)]
            self._tail = (self._tail + body)[-len(self._rest) - 1 :]
            if body != part:
                start = self._end_line()
                if start is not None:
                    self.stopped = True
                    return self._let_through(start)
                self._line = self._tail = ""
                self._n_line += 1
        return self._let_through(self._certain())

    def finish(self) -> str:
        """What was held back, less what repeats."""
        cut = self._end
        line = self._line.removesuffix("\r")
        for c in self._open:
            n = c.n + self._agrees(line, c, whole=True) if line else c.n
            if n > c.n or not line:
                whole = self._decides and n == len(self._lines)
                if whole or (self._are_closing(n) and self._is_foreign(c.start)):
                    cut = min(cut, c.start)
        start = self._rest_start(self._end)
        if start is not None:
            enough = _weight(self._rest) >= (CLOSING_REST if self._closer else REST_OF_LINE)
            if (enough or self._are_closing(1)) and (not self._closer or self._is_foreign(start)):
                cut = min(cut, start)
        text = self._let_through(cut)
        self._held = ""
        return text

    def _end_line(self) -> int | None:
        """What the line that is complete now decides: where a repetition begins."""
        line, going_on = self._line.removesuffix("\r"), []
        end = self._end - 1
        for c in self._open:
            if not line.strip():
                if c.n and self._agrees(line, c):
                    going_on.append(c)
            elif self._agrees(line, c, whole=True):
                if self._decides and c.n + 1 == len(self._lines):
                    return c.start
                going_on.append(_Open(c.start, c.n + 1, c.line))
        start = self._rest_start(end)
        if start is not None:
            if self._closer:
                if not self._is_foreign(start):
                    start = None
                elif _weight(self._rest) >= CLOSING_REST:
                    return start
            elif _weight(self._rest) >= REST_OF_LINE and self._n_line == 0:
                return start
        if start is not None:
            going_on.append(_Open(start, 1, self._n_line))
        elif not self._rest:
            end -= self._tail.endswith("\r")
            going_on.append(_Open(end, 0, self._n_line + 1))
        self._open = [c for c in going_on if self._n_line - c.line < 2 * MOST_LINES]
        return None

    def _certain(self) -> int:
        """How many characters of the suggestion no repetition can take back."""
        line = self._line.removesuffix("\r")
        end = self._end - self._tail.endswith("\r")
        if self._rest:
            end = min(end, self._end - self._rest_begun())
        return min([end, *(c.start for c in self._open if self._agrees(line, c))])

    def _agrees(self, line: str, c: _Open, *, whole: bool = False) -> bool:
        """Whether a line, or its beginning, is the next one of a repetition."""
        if c.n == len(self._lines):
            return not line and not whole
        expected = self._lines[c.n]
        if c.line == 0 and c.n == 0:  # the suggestion's first line: its indentation is the prompt's
            if len(line) > LONGEST:
                return False
            line, expected = line.lstrip(), expected.lstrip()
        return line == expected if whole else expected.startswith(line)

    def _rest_start(self, end: int) -> int | None:
        """Where the rest begins that ends the current line, which ends at `end`."""
        tail = self._tail.removesuffix("\r")
        if not self._rest or not tail.endswith(self._rest):
            return None
        return end - (len(self._tail) - len(tail)) - len(self._rest)

    def _rest_begun(self) -> int:
        """Length of the longest end of the current line that begins the rest, or is it."""
        tail = self._tail.removesuffix("\r")
        if len(tail) < len(self._tail):
            return len(self._rest) + 1 if tail.endswith(self._rest) else 1
        at = max(0, len(tail) - len(self._rest))
        while (at := tail.find(self._rest[0], at)) >= 0:
            if self._rest.startswith(tail[at:]):
                return len(tail) - at
            at += 1
        return 0

    def _are_closing(self, n: int) -> bool:
        """Whether the first n lines are there, and nothing but closing brackets and quotes."""
        return n > 0 and all(CLOSES.fullmatch(line) for line in self._lines[:n])

    def _is_foreign(self, start: int) -> bool:
        """Whether the bracket or quote at `start` closes nothing that the suggestion opened."""
        if not self._closer:
            return False
        before = self._brackets.copy()
        before.read(self._held[: start - self._end + len(self._held)])
        return before.closes_nothing

    def _let_through(self, end: int) -> str:
        """The held text up to a position of the suggestion."""
        n = len(self._held) - (self._end - end)
        text, self._held = self._held[:n], self._held[n:]
        if self._closer:
            self._brackets.read(text)
        return text


class _Brackets:
    """Whether a closing bracket or quote would close one that the text opened."""

    def __init__(self, closer: str) -> None:
        self._closer = closer
        self._opener = OPENERS.get(closer, "")
        self._depth = 0
        self._quote = ""  # of the string that the text is in
        self._escaped = False

    def copy(self) -> _Brackets:
        """Another one that read the same."""
        other = _Brackets(self._closer)
        other._depth, other._quote, other._escaped = self._depth, self._quote, self._escaped
        return other

    @property
    def closes_nothing(self) -> bool:
        """Whether the closer, as the next character, would close nothing that was opened in the text."""
        return not self._quote and self._depth == 0

    def read(self, text: str) -> None:
        """Go on after some text. One closing bracket too many closes one of before the text."""
        for char in text:
            if char == "\n":
                self._quote, self._escaped = "", False
            elif self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif self._quote:
                if char == self._quote:
                    self._quote = ""
            elif char in "\"'`":
                self._quote = char
            elif char == self._opener:
                self._depth += 1
            elif char == self._closer:
                self._depth = max(0, self._depth - 1)


def _next_lines(lines: list[str]) -> tuple[list[str], bool]:
    """The lines that a repetition must repeat, and whether they are enough to decide on it."""
    found: list[str] = []
    for i, line in enumerate(lines):
        if len(line) > LONGEST or len(found) == MOST_LINES:
            break
        if line:
            found.append(line)
        if i > 0 and _weight(line) >= WHOLE_LINE:
            return found, True
    return found, False


def _weight(line: str) -> int:
    """Number of non-space characters."""
    return len("".join(line.split()))
