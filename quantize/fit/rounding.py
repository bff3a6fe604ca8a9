"""Rounding error of a type for a matrix, and rows of a float tensor. R rows, C columns."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from turbopilot.formats.gguf.file import TensorInfo
from turbopilot.llama.rounding import Floats

_DTYPES: Final = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def relative_error(rows: Floats, back: Floats, importance: Floats | None) -> float:
    """Return a matmul's expected squared error, relative to its expected squared output.

    For uncorrelated inputs this is Σ h·(w − ŵ)² / Σ h·w². h (C,) is the mean square of each input channel, or 1 if
    `importance` is None.
    """
    off = np.square(rows - back).sum(axis=0, dtype=np.float64)
    whole = np.square(rows).sum(axis=0, dtype=np.float64)
    if importance is not None:
        off, whole = off * importance, whole * importance
    total = float(whole.sum())
    return float(off.sum()) / total if total > 0 else 0.0


def from_float32(values: Floats, type_name: str) -> npt.NDArray[Any]:
    """Convert float32 to F32, F16 or BF16 (as uint16), rounding to nearest."""
    if type_name == "BF16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values.astype(_DTYPES[type_name])


class Rows:
    """Rows of a float tensor, memory-mapped from its file; several matrices in a tensor are stacked.

    `values` is (R, C) in the type of the file; BF16 as uint16.
    """

    def __init__(self, tensor: TensorInfo) -> None:
        self.tensor, self.n_rows = tensor, tensor.n_weights // tensor.shape[0]
        dtype, shape = _DTYPES[tensor.type_name], (self.n_rows, tensor.shape[0])
        self.values: npt.NDArray[Any] = np.memmap(tensor.path, dtype, "r", tensor.offset, shape)

    def take(self, rows: npt.NDArray[np.int64]) -> Floats:
        """Return the rows with these indices as float32."""
        values = self.values[rows]
        if self.tensor.type_name == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)
