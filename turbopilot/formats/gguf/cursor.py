"""Bounds-checked sequential reader of GGUF values, which checks each length before it reads.

Source: ggml/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Final, TypeAlias

from turbopilot.base.errors import CorruptModel
from turbopilot.base.quoting import quoted, shortened

Value: TypeAlias = "int | float | bool | str | list[int] | list[float] | list[bool] | list[str]"

_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
MOST_KEY_BYTES: Final = 65_535  # ggml/docs/gguf.md
MOST_NAME_BYTES: Final = 64  # of a tensor: ggml/docs/gguf.md
# A vocabulary of a million tokens with its merges takes about 60 MB, and today's largest about 20 MB.
MOST_HEADER_BYTES: Final = 256 << 20


class Cursor:
    """Sequential little-endian reader over a memory map.

    All methods except `fail` raise CorruptModel if the file is too short; `what` names the value in the message.
    """

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0
        self.end = min(len(data), MOST_HEADER_BYTES)

    def fail(self, what: str) -> CorruptModel:
        """Return a CorruptModel error about this file, to be raised."""
        return CorruptModel(
            f"{self.path}: not a usable GGUF: {what}",
            hint="the file is damaged or incomplete: convert or download it again",
        )

    def take(self, n: int, what: str) -> bytes:
        """Return the next `n` bytes."""
        if n < 0 or self.at + n > self.end:
            if self.at + n <= len(self.data):
                raise self.fail(f"its header is larger than {MOST_HEADER_BYTES:,} bytes")
            raise self.fail(
                f"ends inside {shortened(what)} (at byte {self.at:,} of {len(self.data):,})"
            )
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, code: str, what: str) -> int:
        """Return the next integer, of the type given by a `struct` code."""
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0])

    def count(self, what: str, least_bytes: int) -> int:
        """Return the next count; raise if the file is too small for as many items of `least_bytes` each."""
        n = self.number("Q", what)
        if n * least_bytes > self.end - self.at:
            most = f"its {len(self.data):,} bytes"
            if n * least_bytes <= len(self.data) - self.at:
                most = f"a header of at most {MOST_HEADER_BYTES:,} bytes"
            raise self.fail(f"claims {n:,} {shortened(what)}, too many for {most}")
        return n

    def string(self, what: str, most: int = MOST_HEADER_BYTES) -> str:
        """Return the next string, of at most `most` bytes.

        Invalid UTF-8 becomes surrogates, which encode to the same bytes again.
        """
        n = self.count(f"bytes of {what}", 1)
        if n > most:
            raise self.fail(f"{what} has {n:,} bytes (at most {most:,} are allowed)")
        return self.take(n, what).decode("utf-8", errors="surrogateescape")

    def value(self, kind: int, key: str) -> Value:
        """Return the next metadata value, of the GGUF value type `kind`."""
        if kind == _STRING:
            return self.string(key)
        if kind in _SCALARS:
            code = "<" + _SCALARS[kind]
            value: int | float | bool = struct.unpack(code, self.take(struct.calcsize(code), key))[
                0
            ]
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
        raise self.fail(f"metadata {quoted(key)} has the unknown type {kind}")
