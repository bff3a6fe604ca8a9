"""State of an editor before its next edit: the file, the cursor, recent changes, and the region to rewrite."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from serve.prompt.context_file import ContextFile

# "File: path", with a colon at the end in Sweep's plugin for VS Code.
_FILE: Final = re.compile(r"^File: (.*?):?$", re.MULTILINE)
_CONFLICT: Final = re.compile(
    r"^<<<<<<< ORIGINAL\n(.*?)^=======\n(.*?)^>>>>>>> UPDATED$", re.MULTILINE | re.DOTALL
)
_HUNK: Final = re.compile(r"^@@ -\d+(?:,\d+)? \+(\d+)(?:,\d+)? @@.*\n?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Change:
    """A recent change of a file.

    Attributes:
        line: number of its first line in the changed file; the first line of a file is 1.
        old, new: text before and after it, with some lines around the changed ones.
        diff: the same as a unified diff, without the names of the files.
    """

    path: str
    line: int
    old: str
    new: str
    diff: str


@dataclass(frozen=True, slots=True)
class EditState:
    """Input of a next-edit model.

    Attributes:
        path: name of the edited file.
        text: its text.
        cursor: offset of the cursor in `text`, in characters.
        before: text of the file before the recent changes.
        changes: recent changes, the latest last.
        files: parts of other files, the most important last.
        snippets: definitions, diagnostics and the like, the most important last.
        rewrites_above: whether lines above the cursor may change as well.
    """

    path: str
    text: str
    cursor: int
    before: str
    changes: tuple[Change, ...] = ()
    files: tuple[ContextFile, ...] = ()
    snippets: tuple[ContextFile, ...] = ()
    rewrites_above: bool = True


@dataclass(frozen=True, slots=True)
class Region:
    """Whole lines of a text around the cursor.

    Attributes:
        start, end: offsets in the text.
        text: the lines; the last one has no newline only at the end of the file.
        cursor: offset of the cursor in the lines.
        line: number of the first line; the first line of a file is 1.
    """

    start: int
    end: int
    text: str
    cursor: int
    line: int

    def marked(self, cursor: str) -> str:
        """Return the lines with a marker at the cursor."""
        return self.text[: self.cursor] + cursor + self.text[self.cursor :]

    @property
    def last_line(self) -> int:
        """Number of the last line."""
        return self.line + self.text.removesuffix("\n").count("\n")


def lines_around(text: str, cursor: int, n_before: int, n_after: int) -> Region:
    r"""Return the cursor's line and the lines around it.

    >>> lines_around("a\nb\nc\n", 2, 1, 0).text
    'a\nb\n'
    """
    start = text.rfind("\n", 0, cursor) + 1
    end = _line_end(text, cursor)
    for _ in range(n_before):
        start = text.rfind("\n", 0, max(0, start - 1)) + 1
    for _ in range(n_after):
        end = _line_end(text, end)
    return _region(text, start, end, cursor)


def lines_within(text: str, cursor: int, n_bytes: int) -> Region:
    """Return as many whole lines around the cursor as have `n_bytes` bytes together; at least the cursor's line."""
    start, end = text.rfind("\n", 0, cursor) + 1, _line_end(text, cursor)
    size = len(text[start:end].encode())
    while start > 0 or end < len(text):
        above, below = text.rfind("\n", 0, max(0, start - 1)) + 1, _line_end(text, end)
        size += len(text[above:start].encode()) + len(text[end:below].encode())
        if size > n_bytes:
            break
        start, end = above, below
    return _region(text, start, end, cursor)


def _region(text: str, start: int, end: int, cursor: int) -> Region:
    return Region(start, end, text[start:end], cursor - start, text.count("\n", 0, start) + 1)


def _line_end(text: str, at: int) -> int:
    """Return the offset after the newline of the line at `at`."""
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def parse_changes(text: str) -> tuple[Change, ...]:
    r"""Parse Sweep's `recent_changes`: lines "File: path", each followed by changes.

    The changes are hunks of a unified diff, or (cursortab.nvim) old and new text between the markers of a conflict.

    >>> parse_changes("File: a.py\n@@ -1,2 +1,2 @@\n x\n-y\n+z\n")[0].new
    'x\nz\n'
    """
    changes: list[Change] = []
    _, *parts = _FILE.split(text)
    for path, diffs in zip(parts[::2], parts[1::2], strict=True):
        _, *hunks = _HUNK.split(diffs.lstrip("\n"))
        found = [(int(n), d) for n, d in zip(hunks[::2], hunks[1::2], strict=True)]
        found += [(1, _as_diff(old, new)) for old, new in _CONFLICT.findall(diffs)]
        changes += (_change(path, line, diff) for line, diff in found)
    return tuple(c for c in changes if "".join(c.old.split()) != "".join(c.new.split()))


def _as_diff(old: str, new: str) -> str:
    return "\n".join(
        [*(f"-{row}" for row in old.splitlines()), *(f"+{row}" for row in new.splitlines())]
    )


def _change(path: str, line: int, diff: str) -> Change:
    """Return the change of one hunk."""
    lines = [row for row in diff.splitlines() if not row.startswith("\\")]
    old = "".join(f"{row[1:]}\n" for row in lines if not row.startswith("+"))
    new = "".join(f"{row[1:]}\n" for row in lines if not row.startswith("-"))
    sizes = (text.count("\n") for text in (old, new))
    head = "@@ -{0},{1} +{0},{2} @@".format(line, *sizes)
    return Change(path, line, old, new, "\n".join([head, *lines]))
