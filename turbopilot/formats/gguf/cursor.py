"""Bounds-checked reads of GGUF's values, one after another. A leaf: imports only the errors.

Source: ggml/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import TypeAlias

from turbopilot.base.errors import CorruptModel

Value: TypeAlias = "int | float | bool | str | list[int] | list[float] | list[bool] | list[str]"

_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9


class Cursor:
    """Bounds-checked little-endian reads over a memory map.

    All but `fail` raise CorruptModel where the file cannot hold what is asked for; `what` names it.

    Args:
        data: the file.
        path: its name, for messages.
    """

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def fail(self, what: str) -> CorruptModel:
        """The error to raise."""
        return CorruptModel(
            f"{self.path}: not a usable GGUF: {what}",
            hint="the file is damaged or incomplete: convert or download it again",
        )

    def take(self, n: int, what: str) -> bytes:
        """The next `n` bytes."""
        if n < 0 or self.at + n > len(self.data):
            raise self.fail(f"ends inside {what} (at byte {self.at:,} of {len(self.data):,})")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, code: str, what: str) -> int:
        """One number of a `struct` code."""
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0])

    def count(self, what: str, least_bytes: int) -> int:
        """A count of things of at least so many bytes each: more than the file can hold is a lie."""
        n = self.number("Q", what)
        if n * least_bytes > len(self.data) - self.at:
            raise self.fail(f"claims {n:,} {what}, more than its {len(self.data):,} bytes can hold")
        return n

    def string(self, what: str) -> str:
        """A length and so many bytes of UTF-8; others become surrogates, and are the same bytes when encoded so."""
        return self.take(self.count(f"bytes of {what}", 1), what).decode(
            "utf-8", errors="surrogateescape"
        )

    def value(self, kind: int, key: str) -> Value:
        """A metadata value of a type's number."""
        if kind == _STRING:
            return self.string(key)
        if kind in _SCALARS:
            value: int | float | bool = struct.unpack(
                "<" + _SCALARS[kind], self.take(struct.calcsize(_SCALARS[kind]), key)
            )[0]
            return value
        if kind == _ARRAY:
            element = self.number("I", key)
            if element == _STRING:
                return [self.string(key) for _ in range(self.count(f"strings in {key}", 8))]
            if element in _SCALARS:
                size = struct.calcsize(_SCALARS[element])
                n = self.count(f"numbers in {key}", size)
                return list(struct.unpack(f"<{n}{_SCALARS[element]}", self.take(n * size, key)))
            kind = element
        raise self.fail(f"metadata {key!r} has the unknown type {kind}")
