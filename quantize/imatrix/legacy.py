"""The old form of an importance matrix's file (.dat), which most published ones have. Believes nothing in it.

Little endian: i32 entries, each { i32 bytes, name, i32 chunks, i32 values, values × f32 }, then, in newer ones,
i32 chunks in all, i32 bytes, the dataset's name. A value is the mean square of a channel times the chunks.
Source: llama.cpp, common/imatrix-loader.cpp.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np

from quantize.imatrix.matrix import Entry, Imatrix
from turbopilot.base.errors import CorruptModel, InvalidInput

_LEAST_ENTRY = 4 + 1 + 4 + 4 + 4  # bytes


def parse_legacy(data: mmap.mmap, path: Path) -> Imatrix:
    """Parse a file that does not begin as a GGUF.

    Raises:
        InvalidInput: it is something else.
        CorruptModel: it contradicts its size or itself.
    """
    reader = _Reader(data, path)
    n_entries = reader.number("the number of entries") if len(data) >= 4 else 0
    if n_entries < 1 or n_entries * _LEAST_ENTRY > len(data):
        raise InvalidInput(
            f"{path}: is no importance matrix, neither today's GGUF nor the old .dat",
            hint="make one: turbopilot imatrix MODEL",
        )
    entries: dict[str, Entry] = {}
    for i in range(n_entries):
        what = f"entry {i + 1} of {n_entries:,}"
        name = reader.name(f"the name of {what}")
        if name in entries:
            raise reader.fail(f"{name} stands twice")
        n_chunks = reader.number(f"{name}'s chunks")
        n_values = reader.number(f"{name}'s number of values")
        if n_chunks < 0 or n_values < 1:
            raise reader.fail(f"{name} has {n_values:,} values of {n_chunks:,} chunks")
        values = np.frombuffer(reader.take(4 * n_values, f"{name}'s values"), "<f4")
        # Where it says 0 chunks, llama-quantize takes the values as they are.
        entries[name] = Entry(values.reshape(1, -1), np.array([n_chunks or 1], np.int64))
    n_chunks, datasets = 0, list[str]()
    if reader.left:
        n_chunks = reader.number("the number of chunks")
        if n_chunks < 0:
            raise reader.fail(f"it claims {n_chunks:,} chunks")
    if reader.left and (n := reader.number("the length of the dataset's name")):
        datasets.append(reader.take(n, "the dataset's name").decode("utf-8", "replace"))
    if reader.left:
        raise reader.fail(f"{reader.left:,} bytes follow its end")
    return Imatrix(entries, tuple(datasets), n_chunks, 0)


class _Reader:
    """Bounds-checked reads, one after another."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def fail(self, what: str) -> CorruptModel:
        return CorruptModel(
            f"{self.path}: not a usable importance matrix: {what}",
            hint="the file is damaged: download it again, or make one with turbopilot imatrix",
        )

    def take(self, n: int, what: str) -> bytes:
        if n < 0 or n > self.left:
            raise self.fail(f"ends inside {what} (at byte {self.at:,} of {len(self.data):,})")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, what: str) -> int:
        return int(struct.unpack("<i", self.take(4, what))[0])

    def name(self, what: str) -> str:
        n = self.number(f"the length of {what}")
        if n < 1:
            raise self.fail(f"{what} has {n} bytes")
        try:
            return self.take(n, what).decode()
        except UnicodeDecodeError:
            raise self.fail(f"{what} is no text") from None
