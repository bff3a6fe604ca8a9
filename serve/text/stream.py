"""Conversion of token bytes to text that is certain: text that no later token can change.

A token may end inside a UTF-8 character, or with the beginning of text that ends the completion, such as a stop string.
Both are held back until a later token decides, so the text does not depend on the boundaries between tokens.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

from serve.request import StopRules
from serve.text.loops import Loops
from serve.text.repetition import Repetition, overlap

# Characters of a blank line. Other Unicode spaces are text, as in llama.cpp.
BLANK = " \t\r\n\f\v"
NO_RULES = StopRules()


class Stage:
    """A rule that may end the text. Takes text and returns certain text; it is not fed again after it stopped."""

    def __init__(self) -> None:
        self.stopped = False
        self._held = ""

    def feed(self, text: str) -> str:
        """Return the text that is certain now; if the rule ends the text, all text before the end."""
        raise NotImplementedError

    def finish(self) -> str:
        """Return the text that was held back, at the end of generation."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """Converts token bytes to certain text; `stopped` is set when a rule has ended the text.

    The rules apply in this order, each to the output of the previous one: `single_line`, `n_indent`, `strings`,
    `loops`, `follows`.
    """

    def __init__(self, rules: StopRules = NO_RULES) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strings = StopStrings(rules.strings) if any(rules.strings) else None
        stages: tuple[Stage | Loops | Repetition | None, ...] = (
            SingleLine() if rules.single_line else None,
            Indentation(rules.n_indent) if rules.n_indent > 0 else None,
            self._strings,
            Loops(rules.line) if rules.loops else None,
            Repetition(rules.follows) if rules.follows.strip() else None,
        )
        self._stages = [s for s in stages if s]
        self.stopped = False

    @property
    def stop_string(self) -> str:
        """The stop string that ended the text, or ""."""
        ended = [s for s in self._stages if s.stopped]
        return self._strings.found if self._strings and ended[-1:] == [self._strings] else ""

    def feed(self, data: bytes) -> str:
        """Return the text that is certain now, or "" after a stop."""
        return "" if self.stopped else self._run(self._decoder.decode(data), last=False)

    def finish(self) -> str:
        """Return the text that was held back, at the end of generation; an incomplete character is dropped."""
        if self.stopped:
            return ""
        self._decoder.reset()
        return self._run("", last=True)

    def _run(self, text: str, *, last: bool) -> str:
        for stage in self._stages:
            text = stage.feed(text)
            if stage.stopped:
                self.stopped = last = True  # the later stages get no more text
            elif last:
                text += stage.finish()
        return text


class SingleLine(Stage):
    """Ends the text after the first line that is not blank, without its newline."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = False

    def feed(self, text: str) -> str:
        """Return the text up to a final carriage return, which may belong to a newline."""
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


class Indentation(Stage):
    """Ends the text before a line, other than the first, that is indented by fewer spaces and tabs than `columns`.

    The newline and the blank lines before that line are left out too, as in llama.cpp.
    """

    _NEXT_LINE = re.compile(rf"\r?\n([{BLANK}]*)[^{BLANK}]")

    def __init__(self, columns: int) -> None:
        super().__init__()
        self._columns = columns

    def feed(self, text: str) -> str:
        """Return the text up to the final newlines and indentation, since the next character decides."""
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


class StopStrings(Stage):
    """Ends the text before the stop string that is complete first; of two, the longer one. `found` holds it."""

    def __init__(self, strings: Sequence[str]) -> None:
        super().__init__()
        self._strings = {s for s in strings if s}
        self.found = ""

    def feed(self, text: str) -> str:
        """Return the text up to a final part that may begin a stop string."""
        text = self._held + text
        ends = [(at + len(s), -len(s), s) for s in self._strings if (at := text.find(s)) >= 0]
        if ends:
            end, minus_length, self.found = min(ends)
            self.stopped, self._held = True, ""
            return text[: end + minus_length]
        end = len(text) - max((overlap(text, s) for s in self._strings), default=0)
        self._held = text[end:]
        return text[:end]
