"""A place in a text, as line and column."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from turbopilot.base.counts import count
from turbopilot.base.errors import InvalidInput

STDIN: Final = "-"
MOST_BYTES: Final = 64 << 20
# What is sent at most. A context of 128,000 tokens has about 500,000 characters of source code.
MOST_BEFORE: Final = 1 << 20
MOST_AFTER: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class CursorText:
    """Text around the cursor, and the name of its file, or ""."""

    prefix: str
    suffix: str
    filename: str = ""


def read_at(file: str, line: int, column: int | None = None, filename: str = "") -> CursorText:
    """Return the text of a file around a place.

    Args:
        file: path of a text in UTF-8; "-" for stdin.
        line: number of the line, from 1. Lines end with LF or CR LF.
        column: number of the character that follows the cursor, from 1; one more than the line has is its end. None
            means the end of the line.
        filename: name of the file for the model; "" means its path.

    Raises:
        InvalidInput: the file cannot be read or is not UTF-8, or has no such line or column.
    """
    shown = "stdin" if file == STDIN else file
    text = _decoded(_read(file, shown), shown)
    at = _offset(text, line, column, shown)
    name = filename or ("" if file == STDIN else file)
    return CursorText(text[max(0, at - MOST_BEFORE) : at], text[at : at + MOST_AFTER], name)


def _read(file: str, shown: str) -> bytes:
    try:
        if file == STDIN:
            data = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(file).open("rb") as source:
                data = source.read(MOST_BYTES + 1)
    except (OSError, ValueError) as e:  # ValueError: a path with a NUL character
        raise InvalidInput(
            f"{shown}: cannot be read: {getattr(e, 'strerror', None) or e}",
            hint="give the path of a text file, or - for stdin",
        ) from None
    if len(data) > MOST_BYTES:
        raise InvalidInput(
            f"{shown}: is larger than {MOST_BYTES >> 20} MiB", hint="give a file of source code"
        )
    return data


def _decoded(data: bytes, shown: str) -> str:
    try:
        return data.decode("utf-8-sig")  # editors do not count a byte order mark
    except UnicodeDecodeError as e:
        raise InvalidInput(
            f"{shown}: byte {e.start} is not UTF-8", hint="convert the text to UTF-8"
        ) from None


def _offset(text: str, line: int, column: int | None, shown: str) -> int:
    """Return the number of characters before a place."""
    begin = 0
    for n in range(1, line):
        begin = text.find("\n", begin) + 1
        if not begin:
            raise InvalidInput(
                f"{shown}: --line {line}: the last line is {n}", hint="count lines from 1"
            )
    end = text.find("\n", begin)
    end = len(text) if end < 0 else end - text.startswith("\r\n", end - 1)
    length = end - begin
    if column is None:
        return end
    if column > length + 1:
        raise InvalidInput(
            f"{shown}: --column {column}: line {line} has {count(length, 'character')}",
            hint=f"count characters from 1; {length + 1} is the end of the line",
        )
    return begin + column - 1
