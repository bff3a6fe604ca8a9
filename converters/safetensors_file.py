"""Reader for safetensors headers, with validation.

The safetensors package is not used: it maps whole files, which counts as memory, and supports BF16 only with
ml_dtypes.

Source: https://huggingface.co/docs/safetensors (format).
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from converters.source_tensor import DTYPE_BYTES, SourceTensor
from turbopilot.base.errors import CorruptCheckpoint
from turbopilot.base.quoting import quoted

MAX_HEADER = 100_000_000  # the limit of the safetensors package


def read_header(path: Path) -> dict[str, SourceTensor]:
    """Return a file's tensors by name; raise CorruptCheckpoint if it is truncated or its header is invalid."""
    header, start, size = _json(path)
    header.pop("__metadata__", None)
    tensors = {name: _entry(path, name, entry, start, size) for name, entry in header.items()}
    in_order = sorted(tensors.values(), key=lambda t: (t.offset, t.n_bytes))
    for before, after in pairwise(in_order):
        if after.offset < before.offset + before.n_bytes:
            raise _corrupt(path, f"tensors {quoted(before.name)} and {quoted(after.name)} overlap")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Return the file's metadata, without values that are not strings."""
    said = _json(path)[0].get("__metadata__")
    return {k: v for k, v in said.items() if isinstance(v, str)} if isinstance(said, dict) else {}


def _json(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return the header, the start of the data, and the file's size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                raise _corrupt(path, f"claims a header of {length:,} bytes in a file of {size:,}")
            raw = f.read(length)
    except OSError as e:
        raise CorruptCheckpoint(
            f"{path}: cannot be read: {e.strerror}", hint="check the file"
        ) from e
    try:
        header = json.loads(
            raw.decode("utf-8"), object_pairs_hook=lambda pairs: _no_twins(path, pairs)
        )
    except (ValueError, RecursionError) as e:
        raise _corrupt(path, f"its header is not JSON ({e})") from e
    if not isinstance(header, dict):
        raise _corrupt(path, "its header is not an object")
    return header, 8 + length, size


def _no_twins(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        twin = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise _corrupt(path, f"{quoted(twin)} occurs twice in its header")
    return names


def _entry(path: Path, name: str, entry: Any, start: int, size: int) -> SourceTensor:
    if not isinstance(entry, dict):
        raise _corrupt(path, f"tensor {quoted(name)} has no description")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    span: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _corrupt(path, f"tensor {quoted(name)} has the unknown dtype {quoted(dtype)}")
    if not _naturals(shape) or not _naturals(span) or len(span) != 2:
        raise _corrupt(
            path,
            f"tensor {quoted(name)} has invalid shape {quoted(shape)} or offsets {quoted(span)}",
        )
    tensor = SourceTensor(name, dtype, tuple(shape), path, start + span[0])
    if span[1] - span[0] != tensor.n_bytes:
        raise _corrupt(
            path,
            f"tensor {quoted(name)} of shape {quoted(tuple(shape))} needs {tensor.n_bytes:,} bytes, "
            f"not {span[1] - span[0]:,}",
        )
    if start + span[1] > size:
        raise _corrupt(
            path,
            f"tensor {quoted(name)} ends at byte {start + span[1]:,}, but the file at byte {size:,}: it is truncated",
        )
    return tensor


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _corrupt(path: Path, what: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{path}: damaged safetensors file: {what}", hint="download the checkpoint again"
    )
