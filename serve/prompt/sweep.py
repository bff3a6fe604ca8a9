"""Prompts of Sweep next-edit models.

Sections begin with Qwen2's file token: other files, the current file, recent changes, and then the lines around the
cursor as they were (`original/`), as they are (`current/`, with a cursor) and, for the model to write, `updated/`.

Source: next_edit_autocomplete.py of PyPI's sweep-autocomplete (Apache-2.0), the server of Sweep's plugins; the model
card's run_model.py; https://blog.sweep.dev/posts/oss-next-edit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from serve.prompt.context_file import ContextFile
from serve.prompt.edit_state import Change, EditState, Region, lines_around
from serve.prompt.zeta import with_ending

SECTION: Final = "<|file_sep|>"
CURSOR: Final = "<|cursor|>"
# Lines to rewrite before and after the cursor's line, and the number of recent changes in the prompt.
N_BEFORE: Final = 2
N_AFTER: Final = 5
MOST_CHANGES: Final = 6
# Of a longer file, the prompt has 2 * STRIDE lines, from a multiple of STRIDE on. While the user types, they therefore
# stay the same, and their KV cache valid.
WHOLE_LINES: Final = 800
STRIDE: Final = 150
MOST_FILES: Final = 3
MOST_SNIPPETS: Final = 3
SNIPPET_LINES: Final = 25


def region(state: EditState) -> Region:
    """Return the lines to rewrite."""
    return lines_around(state.text, state.cursor, N_BEFORE, N_AFTER)


def prefill(state: EditState, lines: Region) -> str:
    """Return the lines that the model need not write: the first one, if the cursor is below it."""
    first = lines.text.find("\n") + 1
    if not state.rewrites_above or not 0 < first <= lines.cursor:
        return ""
    while first < lines.cursor and lines.text[first] == "\n":
        first += 1
    return lines.text[:first]


def prompt(state: EditState, lines: Region) -> str:
    """Return the prompt, which ends with the text that `prefill` returns."""
    span = f"{state.path}:{lines.line}:{lines.last_line}"
    before = _reverted(lines.text, state)
    sections = [
        *_files(state.files[-MOST_FILES:]),
        f"{state.path}\n{_around(state.before, lines.line)}",
        *_files(_shortened(state.snippets[-MOST_SNIPPETS:])),
        *map(_change, state.changes[-MOST_CHANGES:]),
        f"original/{span}\n{before}",
        f"current/{span}\n{lines.marked(CURSOR)}",
    ]
    text = "".join(f"{SECTION}{s}" if s.endswith("\n") else f"{SECTION}{s}\n" for s in sections)
    return f"{text}{SECTION}updated/{span}\n{prefill(state, lines)}"


def rewritten(output: str, lines: Region) -> str:
    """Return the new lines: the text that `prefill` returns, and the model's output after it.

    Some training data has a remark of `diff` at the end, which the model may repeat.
    """
    text = output.partition(SECTION)[0].partition(" No newline at end of file")[0]
    return with_ending(text.replace(CURSOR, ""), lines.text)


def _files(files: Sequence[ContextFile]) -> list[str]:
    return [f"{file.name}\n{file.text}" for file in files]


def _shortened(files: Sequence[ContextFile]) -> list[ContextFile]:
    return [
        replace(f, text="".join(f.text.splitlines(keepends=True)[:SNIPPET_LINES])) for f in files
    ]


def _around(text: str, line: int) -> str:
    """Return the file, or its lines around one line."""
    lines = text.splitlines(keepends=True)
    if len(lines) <= WHOLE_LINES:
        return text
    start = max(0, round(line / STRIDE) - 1) * STRIDE
    return "".join(lines[start : start + 2 * STRIDE])


def _change(change: Change) -> str:
    old, new = change.old.strip("\n"), change.new.strip("\n")
    last = change.line + change.new.count("\n") - 1
    return f"{change.path}:{change.line}:{last}\noriginal:\n{old}\nupdated:\n{new}"


def _reverted(text: str, state: EditState) -> str:
    """Return the lines before the recent changes: the latest changes are undone as far as their text is found."""
    for change in reversed(state.changes):
        found = next((pair for pair in _texts(change) if pair[1].strip() and pair[1] in text), None)
        if found is None:
            break
        text = text.replace(found[1], found[0], 1)
    return text


def _texts(change: Change) -> Iterator[tuple[str, str]]:
    """Yield the old and the new text of a change, with the lines around it and without them."""
    yield change.old, change.new
    lines = change.diff.splitlines()[1:]
    old, new = (
        "".join(f"{row[1:]}\n" for row in lines if row.startswith(sign)) for sign in ("-", "+")
    )
    yield old, new
