"""Read a GGUF file's header, and believe nothing in it. A leaf: imports only the errors.

llama.cpp aborts the process on some malformed files, and gguf's reader builds a view per vocabulary
entry (seconds for a large one). This one checks every count and offset against the file's size before
using it, and never touches tensor data.

Source: ggml/docs/gguf.md (format version 3; 2 differs in nothing that we read).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeAlias

from turbopilot.errors import CorruptModel, InvalidInput

Value: TypeAlias = "int | float | bool | str | list[int] | list[float] | list[bool] | list[str]"

# ggml type → (name, weights in a block, bytes in a block). Source: ggml.c, type_traits; a test compares
# it with gguf.GGML_QUANT_SIZES.
GGML_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's entry: `shape` is innermost first, as stored; `offset` counts from the file's start."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    n_bytes: int

    @property
    def n_weights(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF says of itself."""

    path: Path
    version: int
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]
    file_size: int

    @property
    def architecture(self) -> str:
        """`general.architecture`, or "" where it is missing."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def n_weights(self) -> int:
        """Number of weights in all tensors."""
        return sum(t.n_weights for t in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Size of all tensor data in bytes."""
        return sum(t.n_bytes for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Average over all tensors, norms and biases included."""
        return 8 * self.tensor_bytes / max(1, self.n_weights)

    def bytes_by_type(self) -> dict[str, int]:
        """Type name → bytes, largest first."""
        sizes: dict[str, int] = {}
        for t in self.tensors:
            sizes[t.type_name] = sizes.get(t.type_name, 0) + t.n_bytes
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))

    def main_type(self) -> str:
        """The type that holds the most bytes: what the file is "in"."""
        return next(iter(self.bytes_by_type()), "F32")


class _Cursor:
    """Bounds-checked little-endian reads over a memory map."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def fail(self, what: str) -> CorruptModel:
        return CorruptModel(
            f"{self.path}: not a usable GGUF: {what}",
            hint="the file is damaged or incomplete: convert or download it again",
        )

    def take(self, n: int, what: str) -> bytes:
        if n < 0 or self.at + n > len(self.data):
            raise self.fail(f"ends inside {what} (at byte {self.at:,} of {len(self.data):,})")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, code: str, what: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0])

    def count(self, what: str, least_bytes: int) -> int:
        """A count of things of at least so many bytes each: more than the file can hold is a lie."""
        n = self.number("Q", what)
        if n * least_bytes > len(self.data) - self.at:
            raise self.fail(f"claims {n:,} {what}, more than its {len(self.data):,} bytes can hold")
        return n

    def string(self, what: str) -> str:
        return self.take(self.count(f"bytes of {what}", 1), what).decode(
            "utf-8", errors="surrogateescape"
        )

    def value(self, kind: int, key: str) -> Value:
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


def read_gguf(path: Path) -> GgufHeader:
    """Parse and check the header of a GGUF file. Milliseconds, whatever the file's size.

    Raises:
        InvalidInput: there is no such file, it is a folder, or it cannot be read.
        CorruptModel: it is not a GGUF, or its header contradicts its size.
    """
    try:
        if path.is_dir():
            raise InvalidInput(
                f"{path}: is a folder, not a GGUF file",
                hint=f"convert it first: turbopilot convert {path}",
            )
        with path.open("rb") as f:
            magic = f.read(4)
            if magic != b"GGUF":
                raise CorruptModel(
                    f"{path}: not a GGUF file (it begins with {magic!r})",
                    hint=_other_format(magic, path),
                )
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(_Cursor(data, path))
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidInput(
            f"{path}: no such file", hint="check the path, or make one with turbopilot convert"
        ) from None
    except PermissionError:
        raise InvalidInput(
            f"{path}: may not be read", hint="check the file's permissions"
        ) from None
    except OSError as e:
        raise InvalidInput(
            f"{path}: cannot be read: {e.strerror}", hint="check the path and the disk"
        ) from e


def _other_format(magic: bytes, path: Path) -> str:
    if magic in (b"lmgg", b"tjgg", b"fmgg"):
        return "an old ggml .bin; such files cannot be read yet"
    if magic[:2] == b"PK" or path.suffix in (".safetensors", ".bin", ".pt"):
        return f"a checkpoint's file? convert its folder: turbopilot convert {path.parent}"
    return "give a file that turbopilot convert or quantize wrote"


def _parse(c: _Cursor) -> GgufHeader:
    c.take(4, "magic")
    version = c.number("I", "version")
    if version not in (2, 3):
        raise c.fail(f"version {version}; versions 2 and 3 are known")
    n_tensors = c.count("tensors", 24)
    n_keys = c.count("metadata keys", 12)
    metadata: dict[str, Value] = {}
    for _ in range(n_keys):
        key = c.string("a metadata key")
        if key in metadata:
            raise c.fail(f"metadata {key!r} stands twice")
        metadata[key] = c.value(c.number("I", key), key)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise c.fail(f"general.alignment is {alignment!r}, not a power of two")

    entries = []
    for _ in range(n_tensors):
        name = c.string("a tensor's name")
        n_dims = c.number("I", name)
        if not 1 <= n_dims <= 4:
            raise c.fail(f"tensor {name!r} has {n_dims} dimensions")
        shape = tuple(c.number("Q", name) for _ in range(n_dims))
        entries.append((name, shape, c.number("I", name), c.number("Q", name)))

    start = -(-c.at // alignment) * alignment
    tensors = []
    for name, shape, kind, offset in entries:
        if kind not in GGML_TYPES:
            raise c.fail(f"tensor {name!r} has the unknown type {kind}")
        type_name, block, block_bytes = GGML_TYPES[kind]
        if 0 in shape or shape[0] % block:
            raise c.fail(
                f"tensor {name!r} of shape {shape} does not divide into {type_name} blocks of {block}"
            )
        n_bytes = prod(shape) // block * block_bytes
        if offset % alignment or start + offset + n_bytes > len(c.data):
            raise c.fail(
                f"tensor {name!r} ({n_bytes:,} bytes at {start + offset:,}) "
                f"lies outside the file's {len(c.data):,} bytes"
            )
        tensors.append(TensorInfo(name, shape, type_name, start + offset, n_bytes))
    if len({t.name for t in tensors}) != len(tensors):
        raise c.fail("two tensors have the same name")
    return GgufHeader(c.path, version, metadata, tuple(tensors), len(c.data))
