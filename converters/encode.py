"""Conversion between float types, and to Q8_0 blocks. BF16 is stored as uint16, since numpy has no such type."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.formats.ggml_types import GGML_TYPES

Array: TypeAlias = "npt.NDArray[Any]"

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
# type → (weights in a block, bytes in a block), for the types that a conversion writes
BLOCKS: dict[str, tuple[int, int]] = {
    name: (weights, n_bytes)
    for name, weights, n_bytes in GGML_TYPES.values()
    if name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
}


class F16Overflow(ValueError):
    """A value exceeds F16's range; the argument is the largest magnitude."""


def encode(block: Array, source: str, target: str, *, lossy: bool = False) -> Array:
    """Convert (rows, n) values from the type `source` to `target`; Q8_0 becomes (rows, bytes).

    Raises:
        F16Overflow: a value would become infinite, and `lossy` is false.
    """
    if source == target:
        return block
    values = (block.astype(np.uint32) << 16).view(np.float32) if source == "BF16" else block
    if target == "F16":
        with np.errstate(over="ignore"):
            cast: Array = values.astype(np.float16)
        if not lossy and not np.isfinite(cast).all():
            raise F16Overflow(float(np.nanmax(np.abs(values))))
        return cast
    values = np.ascontiguousarray(values, np.float32)
    if target == "BF16":
        return _to_bf16(values)
    if target == "Q8_0":
        # gguf's numpy code rounds bit for bit like ggml's C code; imported only if needed
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        values = quantize(values, GGMLQuantizationType.Q8_0)
    return values


def _to_bf16(values: Array) -> Array:
    """Round F32 to BF16: to nearest, ties to even, NaN made quiet, like ggml_compute_fp32_to_bf16."""
    bits = values.view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (bits >> 16).astype(np.uint16) | np.uint16(64), rounded)
