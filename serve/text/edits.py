"""Edits that turn one text into another, as an editor shows them: small, and near the cursor if there is a choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

# Changes with fewer unchanged lines between them are one edit.
LEAST_BETWEEN = 1


@dataclass(frozen=True, slots=True)
class Edit:
    """Replacement of `start` … `end`, offsets in characters, by a text."""

    start: int
    end: int
    text: str


def find_edits(old: str, new: str, cursor: int) -> list[Edit]:
    r"""Return the edits that turn one text into another, from the top to the bottom.

    An edit has no characters in common with the text that it replaces, at its beginning or its end. If the same
    characters could be inserted at several places, they are inserted at the cursor. An edit never only deletes:
    editors' plugins ignore a replacement without text, so it also replaces the rest of the line by itself.

    Args:
        old: the text as it is.
        new: the text with the edits.
        cursor: offset in `old`.

    >>> find_edits("def f(a):\n", "def f(a, b):\n", 7)
    [Edit(start=7, end=7, text=', b')]
    >>> find_edits("a\nb\nc\n", "a\nc\n", 0)
    [Edit(start=2, end=6, text='c\n')]
    """
    edits = list(_changes(old, new))
    for i, edit in enumerate(edits):
        low = edits[i - 1].end if i else 0
        high = edits[i + 1].start if i + 1 < len(edits) else len(old)
        edits[i] = _near(old, edit, cursor, low, high)
    return list(_visible(old, edits))


def merged(old: str, edits: Sequence[Edit]) -> Edit | None:
    """Return one edit for several, which are in order and do not overlap; None for none."""
    if not edits:
        return None
    text, at = "", edits[0].start
    for edit in edits:
        text += old[at : edit.start] + edit.text
        at = edit.end
    return Edit(edits[0].start, at, text)


def nearest(edits: Sequence[Edit], cursor: int) -> list[Edit]:
    """Return the edits that end at the cursor or after it; without any, the others, the nearest first.

    Sweep's plugins show the first of them, and then the next ones, which must be farther down.
    """
    below = [e for e in edits if e.end >= cursor]
    return below or sorted(edits, key=lambda e: cursor - e.end)


def _changes(old: str, new: str) -> Iterator[Edit]:
    """Yield the smallest edits, line by line."""
    a, b = _lines(old), _lines(new)
    offsets = [0]
    for line in a:
        offsets.append(offsets[-1] + len(line))
    i1 = i2 = j1 = j2 = 0  # the lines of the current change
    for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        if block.size > LEAST_BETWEEN or block.a == len(a) or block.a == block.b == 0:
            i2, j2 = block.a, block.b
            if (i1, j1) != (i2, j2):
                yield from _smallest(offsets[i1], old[offsets[i1] : offsets[i2]], "".join(b[j1:j2]))
            i1, j1 = block.a + block.size, block.b + block.size


def _lines(text: str) -> list[str]:
    found = text.split("\n")
    return [*(f"{line}\n" for line in found[:-1]), *found[-1:]]


def _smallest(start: int, old: str, new: str) -> Iterator[Edit]:
    """Yield the edit without the characters that both texts have in common at the beginning and the end."""
    most = min(len(old), len(new))
    n = next((i for i in range(most) if old[i] != new[i]), most)
    most -= n
    m = next((i for i in range(most) if old[-1 - i] != new[-1 - i]), most)
    edit = Edit(start + n, start + len(old) - m, new[n : len(new) - m])
    if edit.text or edit.start < edit.end:
        yield edit


def _near(old: str, edit: Edit, cursor: int, low: int, high: int) -> Edit:
    """Return an insertion that is nearer to the cursor, with the same result; other edits stay.

    `low` and `high` are the end of the edit before it and the start of the one after it.
    """
    if edit.start < edit.end:
        return edit
    at, text = edit.start, edit.text
    while at > max(cursor, low) and old[at - 1] == text[-1]:
        at, text = at - 1, text[-1] + text[:-1]
    while at < min(cursor, high) and old[at] == text[0]:
        at, text = at + 1, text[1:] + text[0]
    return Edit(at, at, text)


def _visible(old: str, edits: list[Edit]) -> Iterator[Edit]:
    """Yield the edits; those that only delete also replace the rest of the line, or the next edit, by itself."""
    for i, edit in enumerate(edits):
        line_end = old.find("\n", edit.end) + 1 or len(old)
        after = edits[i + 1 : i + 2]
        if edit.text:
            yield edit
        elif after and after[0].start < line_end:
            edits[i + 1] = Edit(
                edit.start, after[0].end, old[edit.end : after[0].start] + after[0].text
            )
        elif edit.end < len(old):
            yield Edit(edit.start, line_end, old[edit.end : line_end])
        else:
            low = edits[i - 1].end if i else 0
            start = max(low, old.rfind("\n", 0, max(0, edit.start - 1)) + 1)
            yield Edit(start, edit.end, old[start : edit.start])
