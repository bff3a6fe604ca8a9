"""Handmade PyTorch files with arbitrary pickles, and a check that reading them fails safely."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from converters.torch_file import read_pickle

# Opcodes of pickle protocol 2.
PROTO, STOP, EMPTY = b"\x80\x02", b".", b"}"


def text(value: str) -> bytes:
    """Encode a string (BINUNICODE)."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(full: str) -> bytes:
    """Encode a dotted name (GLOBAL)."""
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def integer(value: int) -> bytes:
    """Encode an integer (LONG1)."""
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def storage(key: str = "0", count: int = 4, kind: str = "torch.FloatStorage") -> bytes:
    """Encode the persistent id of a storage."""
    return b"(" + text("storage") + name(kind) + text(key) + text("cpu") + integer(count) + b"tQ"


def tensor(
    offset: int = 0,
    shape: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    of: bytes = b"",
    more: bytes = b"",
) -> bytes:
    """Encode a call of `_rebuild_tensor_v2`."""
    sizes = [b"(" + b"".join(map(integer, ns)) + b"t" for ns in (shape, stride)]
    hooks = name("collections.OrderedDict") + b")R"
    return (
        name("torch._utils._rebuild_tensor_v2")
        + b"("
        + (of or storage())
        + integer(offset)
        + b"".join(sizes)
        + b"\x89"
        + hooks
        + more
        + b"tR"
    )


def holding(value: bytes) -> bytes:
    """Return the pickle of {"x": value}."""
    return PROTO + EMPTY + text("x") + value + b"s" + STOP


def write(path: Path, entries: Mapping[str, bytes], compression: int = 0) -> Path:
    """Write a zip file with these entries in order."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return path


def with_pickle(path: Path, pickled: bytes, **entries: bytes) -> Path:
    """Write a PyTorch file with this pickle and one storage of four F32 values."""
    data = torch.arange(4, dtype=torch.float32).numpy().tobytes()
    parts = {
        "data.pkl": pickled,
        "version": b"3\n",
        "byteorder": b"little",
        "data/0": data,
        **entries,
    }
    return write(path, {f"archive/{entry}": part for entry, part in parts.items()})


def refused(path: Path, error: type[Exception], *words: str) -> None:
    """Check that `read_pickle` raises an error with the file, a hint and `words`, and uses little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(error) as e:
            read_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    said = str(e.value)
    assert str(path) in said
    assert getattr(e.value, "hint", "")
    assert all(word in said for word in words), f"{words} are not in: {said}"
    assert len(said) < 1000
    assert said.isprintable()
