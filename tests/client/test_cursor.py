"""Places in a file: lines and columns as editors count them, and files that cannot be read."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from turbopilot.base.errors import InvalidInput
from turbopilot.client import cursor
from turbopilot.client.cursor import CursorText, read_at

TEXT = "def f():\n    ü = '😀'\n\nlast"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.py"
    path.write_bytes(TEXT.encode())
    return path


@pytest.mark.parametrize(
    ("line", "column", "prefix"),
    [
        (1, None, "def f():"),
        (1, 1, ""),
        (2, None, "def f():\n    ü = '😀'"),
        (2, 5, "def f():\n    "),
        (2, 11, "def f():\n    ü = '😀"),  # characters, not bytes or UTF-16 code units
        (3, None, "def f():\n    ü = '😀'\n"),
        (3, 1, "def f():\n    ü = '😀'\n"),
        (4, 5, TEXT),
    ],
)
def test_place_is_line_and_column_from_1(
    file: Path, line: int, column: int | None, prefix: str
) -> None:
    found = read_at(str(file), line, column)
    assert found == CursorText(prefix, TEXT.removeprefix(prefix), str(file))


@pytest.mark.parametrize(("line", "prefix"), [(1, "a"), (2, "a\r\n"), (3, "a\r\n\r\nb\rc")])
def test_line_ends_before_cr_lf(tmp_path: Path, line: int, prefix: str) -> None:
    path = tmp_path / "crlf.txt"
    path.write_bytes(b"a\r\n\r\nb\rc\r\n")
    assert read_at(str(path), line).prefix == prefix


def test_line_after_the_last_line_break_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(b"a\n")
    assert read_at(str(path), 2) == CursorText("a\n", "", str(path))
    path.write_bytes(b"")
    assert read_at(str(path), 1, 1) == CursorText("", "", str(path))


def test_byte_order_mark_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(b"\xef\xbb\xbfabc")
    assert read_at(str(path), 1, 2).prefix == "a"


@pytest.mark.parametrize(
    ("line", "column", "message", "hint"),
    [
        (5, None, "--line 5: the last line is 4", "count lines from 1"),
        (10**9, 1, "--line 1000000000: the last line is 4", "count lines from 1"),
        (2, 13, "--column 13: line 2 has 11 characters", "12 is the end of the line"),
        (3, 2, "--column 2: line 3 has 0 characters", "1 is the end of the line"),
    ],
)
def test_place_outside_of_the_text_is_an_error(
    file: Path, line: int, column: int | None, message: str, hint: str
) -> None:
    with pytest.raises(InvalidInput) as e:
        read_at(str(file), line, column)
    assert e.value.message == f"{file}: {message}"
    assert hint in e.value.hint


def test_stdin_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert read_at("-", 1, 4, "b.py") == CursorText("def", TEXT[3:], "b.py")


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.py"
    path.write_bytes("abc\nü".encode("latin-1"))
    with pytest.raises(InvalidInput, match="byte 4 is not UTF-8"):
        read_at(str(path), 1)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.py", "a\0b"):
        with pytest.raises(InvalidInput, match="cannot be read") as e:
            read_at(str(path), 1)
        assert str(path) in e.value.message


@pytest.mark.skipif(sys.platform == "win32", reason="has no /dev/zero")
def test_endless_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursor, "MOST_BYTES", 1 << 20)
    with pytest.raises(InvalidInput, match="/dev/zero: is larger than 1 MiB"):
        read_at("/dev/zero", 1)


def test_text_far_from_the_cursor_is_left_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursor, "MOST_BEFORE", 3)
    monkeypatch.setattr(cursor, "MOST_AFTER", 2)
    assert read_at(str(file), 4, 3) == CursorText("\nla", "st", str(file))
