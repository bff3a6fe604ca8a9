"""Layout of tables as plain columns, one line per row, cut to a width without splitting a name."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

GAP: Final = "  "
_LEAST_TEXT: Final = 24  # columns of free text are not made narrower than this


@dataclass(frozen=True, slots=True)
class TableColumns:
    """Columns of a table. The first one holds names: it is never cut and always shown.

    Attributes:
        headings: headings of all columns, all different.
        left: headings of the columns to align to the left, in addition to the first.
        optional: headings of the columns to leave out if the table is too wide, first to last; those that the table
            does not have are ignored. If it is still too wide, the other columns follow, from right to left.
        text: heading of a column of free text, whose cells are shortened between words before columns are left out.
    """

    headings: Sequence[str]
    left: Collection[str] = ()
    optional: Sequence[str] = ()
    text: str = ""

    def lay_out(self, rows: Sequence[Sequence[str]], width: int) -> tuple[list[str], list[str]]:
        """Return the lines of the table, its headings first, and the headings of the columns left out."""
        everything = [self.headings, *rows]
        widths = {
            name: max(text_width(row[i]) for row in everything)
            for i, name in enumerate(self.headings)
        }
        widest_text = widths.get(self.text, 0)
        if self.text:
            widths[self.text] = min(widest_text, _LEAST_TEXT)
        left_out: list[str] = []
        for name in self._least_important_first():
            if self._total(widths) <= width:
                break
            del widths[name]
            left_out.append(name)
        if self.text in widths:
            room = width - self._total(widths)
            widths[self.text] += max(0, min(room, widest_text - widths[self.text]))
        lines = [self._line(row, widths) for row in everything]
        return lines, [name for name in self.headings if name in left_out]

    def _least_important_first(self) -> list[str]:
        others = [name for name in self.headings[1:] if name not in self.optional]
        return [*(n for n in self.optional if n in self.headings), *reversed(others)]

    @staticmethod
    def _total(widths: dict[str, int]) -> int:
        return sum(widths.values()) + len(GAP) * (len(widths) - 1)

    def _line(self, row: Sequence[str], widths: dict[str, int]) -> str:
        cells = []
        for name, cell in zip(self.headings, row, strict=True):
            if name not in widths:
                continue
            shown = cut(cell, widths[name]) if name == self.text else cell
            blank = " " * (widths[name] - text_width(shown))
            is_left = name in (self.headings[0], self.text) or name in self.left
            cells.append(shown + blank if is_left else blank + shown)
        return GAP.join(cells).rstrip()


def text_width(text: str) -> int:
    """Return the columns that a text takes on a terminal: two for each Chinese, Japanese or Korean character."""
    return sum(_character_width(c) for c in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return the text, ended with … between two words if it is too long; inside a word only if that is the first."""
    if text_width(text) <= width:
        return text
    kept = text
    while text_width(kept) >= width:
        kept = kept[:-1]
    between = kept if text[len(kept)] == " " else kept.rpartition(" ")[0]
    return (between or kept).rstrip(" ,;:") + "…"
