"""Turn token bytes into text that is certain.

A token may end inside a UTF-8 character, or with the beginning of something that ends the completion. Both are held
back until a later token decides, so the text does not depend on how it was cut into tokens.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

from serve.request import StopRules
from serve.text.repetition import Repetition, overlap

# Characters of a blank line. Other Unicode spaces are text, as in llama.cpp.
BLANK = " \t\r\n\f\v"
NO_RULES = StopRules()


class Stage:
    """A rule that may end the text: text in, certain text out; nothing is fed after it has stopped."""

    def __init__(self) -> None:
        self.stopped = False
        self._held = ""

    def feed(self, text: str) -> str:
        """Return the text that is certain now; when it stops, all that is left of it."""
        raise NotImplementedError

    def finish(self) -> str:
        """Return the text held back, as nothing follows."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """Bytes in, certain text out; `stopped` when a rule has ended the text.

    The rules apply in this order, each to what is left by those before it: `single_line`, `n_indent`, `strings`,
    `follows`.
    """

    def __init__(self, rules: StopRules = NO_RULES) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strings = StopStrings(rules.strings) if any(rules.strings) else None
        self._repetition = Repetition(rules.follows) if rules.follows.strip() else None
        stages: tuple[Stage | Repetition | None, ...] = (
            SingleLine() if rules.single_line else None,
            Indentation(rules.n_indent) if rules.n_indent > 0 else None,
            self._strings,
            self._repetition,
        )
        self._stages = [s for s in stages if s]
        self.stopped = False

    @property
    def stop_string(self) -> str:
        """The stop string that ended the text, or ""."""
        if self._strings is None or (self._repetition and self._repetition.stopped):
            return ""
        return self._strings.found

    def feed(self, data: bytes) -> str:
        """Return the text that is certain now, perhaps none; after a stop, none."""
        return "" if self.stopped else self._run(self._decoder.decode(data), last=False)

    def finish(self) -> str:
        """Return what was held back, as nothing follows, without half a character."""
        if self.stopped:
            return ""
        self._decoder.reset()
        return self._run("", last=True)

    def _run(self, text: str, *, last: bool) -> str:
        for stage in self._stages:
            text = stage.feed(text)
            if stage.stopped:
                self.stopped = last = True  # nothing follows for the stages after it
            elif last:
                text += stage.finish()
        return text


class SingleLine(Stage):
    """End the text after the first line that is not blank; its newline is left out."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = False

    def feed(self, text: str) -> str:
        """Return all but a carriage return at the end, which may belong to a newline."""
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
    """End the text before a line, other than the first, that is indented by fewer spaces and tabs than `columns`.

    The newline and the blank lines before that line are left out too, as in llama.cpp.
    """

    _NEXT_LINE = re.compile(rf"\r?\n([{BLANK}]*)[^{BLANK}]")

    def __init__(self, columns: int) -> None:
        super().__init__()
        self._columns = columns

    def feed(self, text: str) -> str:
        """Return all but the newlines and indentation at the end: what comes after them decides."""
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
    """End the text before the stop string that is complete first, kept in `found`; of two, the longer one."""

    def __init__(self, strings: Sequence[str]) -> None:
        super().__init__()
        self._strings = {s for s in strings if s}
        self.found = ""

    def feed(self, text: str) -> str:
        """Return all but an end that begins a stop string."""
        text = self._held + text
        ends = [(at + len(s), -len(s), s) for s in self._strings if (at := text.find(s)) >= 0]
        if ends:
            end, minus_length, self.found = min(ends)
            self.stopped, self._held = True, ""
            return text[: end + minus_length]
        end = len(text) - max((overlap(text, s) for s in self._strings), default=0)
        self._held = text[end:]
        return text[:end]
