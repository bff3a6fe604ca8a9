"""Token bytes → text that may be shown. Knows nothing of models, HTTP or threads.

Two things make a token's bytes uncertain: they may end inside a UTF-8 character, and their text may be
the beginning of something that ends the suggestion. Both are held back until a later token decides.

Each rule is a stage: text in, text out, perhaps less and later. What a stage lets through never depends
on how its text was cut, so neither does what a chain of them lets through.
"""

from __future__ import annotations

import codecs
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Protocol

from serve.request import StopRules
from serve.text.repetition import Repetition

# What a blank line consists of. Other Unicode spaces are text, as llama.cpp has it.
BLANK = " \t\r\n\f\v"
NO_RULES = StopRules()


class Stage(Protocol):
    """One rule that may end the text."""

    @property
    def stopped(self) -> bool:
        """Whether it ended the text; nothing is fed after that."""

    def feed(self, text: str) -> str:
        """Text that is certain now; when it stops, all that is left of it."""

    def finish(self) -> str:
        """What of the text held back remains, now that nothing follows."""


class TextStream:
    """Feeds bytes in, gets certain text out; the total does not depend on how the bytes were cut.

    The rules look at the text in this order, each at what those before it left:

    1. `single_line`: the text ends at the end of the first line that is not blank. The newline is no
       part of it; blank lines before it are.
    2. `n_indent`: it ends before the first line, the first of all excepted, that is not blank and has
       fewer spaces and tabs before it; the newline and the blank lines before that line go too.
    3. `strings`: the one that is complete first ends it; of two that end at the same character, the
       longer one. The text is cut before it.
    4. `follows`: it ends before it repeats the text after the cursor: see `Repetition`.

    Attributes:
        stopped: whether a rule ended the text.
    """

    def __init__(self, rules: StopRules = NO_RULES) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strings = StopStrings(rules.strings) if any(rules.strings) else None
        self._repetition = Repetition(rules.follows) if rules.follows.strip() else None
        stages: tuple[Stage | None, ...] = (
            SingleLine() if rules.single_line else None,
            Indentation(rules.n_indent) if rules.n_indent > 0 else None,
            self._strings,
            self._repetition,
        )
        self._stages = [s for s in stages if s]
        self.stopped = False

    @property
    def stop_string(self) -> str:
        """The stop string that ended the text; "" where none did."""
        if self._strings is None or (self._repetition and self._repetition.stopped):
            return ""
        return self._strings.found

    def feed(self, data: bytes) -> str:
        """Text that is certain now, perhaps none. After a stop: always none."""
        return "" if self.stopped else self._run(self._decoder.decode(data), last=False)

    def finish(self) -> str:
        """What was held back, now that nothing follows. Half a character is dropped: it is no text."""
        if self.stopped:
            return ""
        self._decoder.reset()
        return self._run("", last=True)

    def _run(self, text: str, *, last: bool) -> str:
        for stage in self._stages:
            text = stage.feed(text)
            if stage.stopped:
                self.stopped = last = True  # the stages after it have seen all they will see
            elif last:
                text += stage.finish()
        return text


class SingleLine:
    """Ends the text at the end of the first line that is not blank."""

    def __init__(self) -> None:
        self.stopped = False
        self._begun = False
        self._held = ""

    def feed(self, text: str) -> str:
        """All but a carriage return, which may belong to the newline."""
        text = self._held + text
        self._held = ""
        start = 0
        if not self._begun:
            start = len(text) - len(text.lstrip(BLANK))
            self._begun = start < len(text)
        if self._begun and (end := text.find("\n", start)) >= 0:
            self.stopped = True
            return text[:end].removesuffix("\r")
        if text.endswith("\r"):
            text, self._held = text[:-1], "\r"
        return text

    def finish(self) -> str:
        """The carriage return."""
        held, self._held = self._held, ""
        return held


class Indentation:
    """Ends the text before a line that is indented less than `columns`; a tab counts as one, as in llama.cpp."""

    _NEXT_LINE = re.compile(rf"\r?\n([{BLANK}]*)[^{BLANK}]")

    def __init__(self, columns: int) -> None:
        self.stopped = False
        self._columns = columns
        self._held = ""

    def feed(self, text: str) -> str:
        """All but the newlines and indentation at the end: what comes after them decides."""
        text = self._held + text
        end = len(text.rstrip(BLANK))
        for line in self._NEXT_LINE.finditer(text, 0, end):
            indent = line[1].rpartition("\n")[2]
            if indent.count(" ") + indent.count("\t") < self._columns:
                self.stopped = True
                return text[: line.start()]
        newline = text.find("\n", end)
        if newline >= 0:
            end = newline - (newline > end and text[newline - 1] == "\r")
        else:
            end = len(text) - text.endswith("\r")
        self._held = text[end:]
        return text[:end]

    def finish(self) -> str:
        """The newlines and indentation."""
        held, self._held = self._held, ""
        return held


class _State:
    """How far the text's end agrees with the beginnings of stop strings.

    Attributes:
        low, high: the stop strings, in their sorted order, that begin so.
        depth: characters that agree.
        shorter: the state of the longest shorter end of the text that begins a stop string.
        found: length of the longest stop string that is complete here; 0 is none.
        deeper: the states after one more character, as far as they were ever needed.
    """

    __slots__ = ("deeper", "depth", "found", "high", "low", "shorter")

    def __init__(self, low: int, high: int, depth: int) -> None:
        self.low, self.high, self.depth = low, high, depth
        self.shorter: _State | None = None
        self.found = 0
        self.deeper: dict[str, _State | None] = {}


class StopStrings:
    """Ends the text before the stop string that is complete first.

    This is Aho and Corasick's automaton ("Efficient string matching", CACM 18(6), 1975), whose states are
    made when the text first reaches them: it costs nothing to begin with and little a character, whatever
    the number and the length of the strings.

    Attributes:
        found: the string that ended the text; "" where none did.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = sorted({s for s in strings if s})
        self._root = self._state = _State(0, len(self._strings), 0)
        self._held = ""
        self.found = ""

    @property
    def stopped(self) -> bool:
        """Whether a string was found."""
        return bool(self.found)

    def feed(self, text: str) -> str:
        """All but an end that begins a stop string."""
        state = self._state
        for i, char in enumerate(text):
            state = self._next(state, char)
            if state.found:
                text = self._held + text[: i + 1]
                self._held = ""
                self.found = text[-state.found :]
                return text[: -state.found]
        self._state = state
        text = self._held + text
        end = len(text) - state.depth
        self._held = text[end:]
        return text[:end]

    def finish(self) -> str:
        """The end that begins a stop string."""
        held, self._held = self._held, ""
        self._state = self._root
        return held

    def _next(self, state: _State, char: str) -> _State:
        at: _State | None = state
        reached = self._root
        new = []  # from the longest agreement to the shortest
        while at is not None:
            is_new = char not in at.deeper
            if is_new:
                at.deeper[char] = self._deepen(at, char)
            if (deeper := at.deeper[char]) is not None:
                if not is_new:
                    reached = deeper
                    break
                new.append(deeper)
            at = at.shorter
        for deeper in reversed(new):
            deeper.shorter = reached
            deeper.found = deeper.found or reached.found
            reached = deeper
        return reached

    def _deepen(self, state: _State, char: str) -> _State | None:
        """The state after one more character; None where no stop string goes on so."""
        depth = state.depth

        def at_depth(s: str) -> str:
            return s[depth : depth + 1]

        low = bisect_left(self._strings, char, state.low, state.high, key=at_depth)
        high = bisect_right(self._strings, char, low, state.high, key=at_depth)
        if low == high:
            return None
        deeper = _State(low, high, depth + 1)
        if len(self._strings[low]) == depth + 1:
            deeper.found = depth + 1
        return deeper
