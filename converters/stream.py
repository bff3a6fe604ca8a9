"""Move a planned tensor's data in blocks of rows: read, place, cast, check. At most one block in memory.

Knows nothing of output formats: both the GGUF writer and the checkpoint writer take the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from converters.checkpoint import Array, Checkpoint
from converters.plan import FLOAT_BYTES, PlannedPart, PlannedTensor
from turbopilot.errors import TensorMismatch

BLOCK_BYTES = 8 << 20  # large enough that the disk and numpy are busy, small enough for any machine


def blocks(
    checkpoint: Checkpoint, tensor: PlannedTensor, *, keep_nonfinite: bool = False
) -> Iterator[Array]:
    """The tensor's data in file order, cast to its dtype (BF16 as uint16), contiguous.

    Raises:
        TensorMismatch: it holds NaN or infinity (unless `keep_nonfinite`), or values beyond F16.
    """
    if not tensor.parts:
        yield np.zeros(
            tensor.shape, np.uint16 if tensor.dtype == "BF16" else f"<f{FLOAT_BYTES[tensor.dtype]}"
        )
        return
    for part in tensor.parts:
        for block in _placed(checkpoint, part):
            if not keep_nonfinite:
                _check_finite(block, part)
            yield _cast(block, part, tensor.dtype, keep_nonfinite)


def _placed(checkpoint: Checkpoint, part: PlannedPart) -> Iterator[Array]:
    source = part.source
    if part.transpose:
        whole = checkpoint.read_rows(source, 0, source.shape[0])
        yield np.ascontiguousarray(whole.T)
        return
    step = max(1, BLOCK_BYTES // max(1, prod(source.shape[1:]) * FLOAT_BYTES[source.dtype]))
    n = source.shape[0] if part.rows is None else len(part.rows)
    for start in range(0, n, step):
        stop = min(start + step, n)
        if part.rows is None:
            yield checkpoint.read_rows(source, start, stop)
            continue
        wanted = part.rows[start:stop]
        # Orders are local (within heads), so the rows between the first and the last are nearly all wanted.
        for run in np.split(wanted, np.flatnonzero(np.abs(np.diff(wanted)) > step) + 1):
            low, high = int(run.min()), int(run.max()) + 1
            yield checkpoint.read_rows(source, low, high)[run - low]


def _check_finite(block: Array, part: PlannedPart) -> None:
    """NaN and infinity have all exponent bits set; looking at the bits is faster than np.isfinite on F16."""
    bits, exponent = {
        "F32": (block.view(np.uint32) if block.dtype.itemsize == 4 else block, 0x7F800000),
        "F16": (block.view(np.uint16) if block.dtype.itemsize == 2 else block, 0x7C00),
        "BF16": (block, 0x7F80),
    }[part.source.dtype]
    bad = (bits & exponent) == exponent
    if bad.any():
        raise TensorMismatch(
            f"{part.source.path}: tensor {part.source.name!r} holds {int(bad.sum()):,} values that are NaN or infinite",
            hint="the checkpoint is damaged or its training diverged; --force converts it all the same",
        )


def _cast(block: Array, part: PlannedPart, dtype: str, keep_nonfinite: bool) -> Array:
    source = part.source.dtype
    if source == dtype:
        return block
    if source == "BF16":
        block = (block.astype(np.uint32) << 16).view(np.float32)
    if dtype == "BF16":
        return _to_bf16(block.astype(np.float32))
    with np.errstate(over="ignore"):
        cast: np.ndarray[Any, Any] = block.astype(np.float16 if dtype == "F16" else np.float32)
    if dtype == "F16" and not keep_nonfinite and not np.isfinite(cast).all():
        raise TensorMismatch(
            f"{part.source.path}: tensor {part.source.name!r} has values up to "
            f"{np.abs(block).max():.4g}; F16 ends at 65504",
            hint="convert with --dtype f32",
        )
    return cast


def _to_bf16(block: Array) -> Array:
    """F32 → BF16 bits, rounded to nearest, ties to even, NaN kept quiet (as ggml_compute_fp32_to_bf16)."""
    bits = np.ascontiguousarray(block, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (bits >> 16).astype(np.uint16) | np.uint16(64), rounded)
