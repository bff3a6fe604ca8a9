"""A user's own code, in place of the bundled text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from turbopilot.base.errors import InvalidInput

MOST_BYTES: Final = 8 << 20  # of the text that is read; measurements use much less
_MOST_OF_A_FILE: Final = 256 << 10  # larger files are rarely written by hand
_LEAST_CHARACTERS: Final = 2000  # of each half
_LEFT_OUT: Final = {"node_modules", "__pycache__", "venv", "dist", "build", "target", "vendor"}


def read_halves(path: Path) -> tuple[str, str]:
    """Return the text of a file or of the files in a folder in two parts of different lines or files.

    Of a folder, text files of up to 256 KiB are read, in the order of their paths; hidden files and folders, and those
    with installed or generated code, are left out. Files go to the smaller part, one after the other.

    Raises:
        InvalidInput: the path cannot be read, or has too little text.
    """
    halves = _of_files(path) if path.is_dir() else _of_lines(path)
    if min(map(len, halves)) < _LEAST_CHARACTERS:
        raise InvalidInput(
            f"--text {path}: has too little text: {sum(map(len, halves)):,} characters",
            hint="give a folder of source code, or a longer file",
        )
    return halves


def _of_lines(path: Path) -> tuple[str, str]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError as e:
        raise InvalidInput(
            f"--text {path}: cannot be read: {e.strerror}", hint="give a text file or a folder"
        ) from e
    lines = text.splitlines(keepends=True)
    return "".join(lines[: len(lines) // 2]), "".join(lines[len(lines) // 2 :])


def _of_files(folder: Path) -> tuple[str, str]:
    halves: tuple[list[str], list[str]] = ([], [])
    sizes = [0, 0]
    for text in _texts(folder):
        smaller = sizes.index(min(sizes))
        halves[smaller].append(text)
        sizes[smaller] += len(text)
        if sum(sizes) >= MOST_BYTES:
            break
    return "\n".join(halves[0]), "\n".join(halves[1])


def _texts(folder: Path) -> Iterator[str]:
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in _LEFT_OUT and not f.startswith("."))
        for name in sorted(f for f in files if not f.startswith(".")):
            path = Path(where) / name
            try:
                if not path.is_file() or path.stat().st_size > _MOST_OF_A_FILE:
                    continue
                data = path.read_bytes()
                if b"\0" not in data:
                    yield data.decode("utf-8")
            except (OSError, UnicodeDecodeError):
                continue
