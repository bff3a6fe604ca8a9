"""Rounding error of a type for a matrix, computed with ggml's quantizer. R rows, C columns."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quantize.recipes import TENSOR_TYPES
from turbopilot.base.errors import QuantizationError
from turbopilot.formats.ggml_types import BLOCKS
from turbopilot.formats.gguf.file import TensorInfo
from turbopilot.llama.library import Signature, declare, ggml

Floats = npt.NDArray[np.float32]
_DTYPES: Final = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


class _Traits(ctypes.Structure):
    """`struct ggml_type_traits`. Source: ggml/include/ggml.h of ggml 0.25."""

    type_name: bytes
    blck_size: int
    type_size: int
    to_float: Any
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


_POINTER, _INT64 = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS: Final[dict[str, Signature]] = {
    "ggml_quantize_chunk": (
        [ctypes.c_int, _POINTER, _POINTER, _INT64, _INT64, _INT64, _POINTER], ctypes.c_size_t,
    ),
    "ggml_get_type_traits": ([ctypes.c_int], ctypes.POINTER(_Traits)),
}  # fmt: skip


class Rounding:
    """Functions of ggml that quantize and dequantize matrices; they release the GIL."""

    def __init__(self) -> None:
        declare(ggml, _FUNCTIONS)
        self._quantize, self._traits = ggml.ggml_quantize_chunk, ggml.ggml_get_type_traits
        # Check the layout before calling a function pointer from the table.
        for name, number in TENSOR_TYPES.items():
            traits = self._traits(number).contents
            if (traits.blck_size, traits.type_size) != BLOCKS[name]:
                raise QuantizationError(
                    f"{name} has an unexpected block size in this llama.cpp",
                    hint="update turbopilot",
                )

    def rounded(self, rows: Floats, type_name: str, importance: Floats | None = None) -> Floats:
        """Return the rows (R, C) rounded to a type; C is a multiple of its block size.

        Some types need the importance (C,).
        """
        if type_name == "F32":
            return rows
        if type_name == "F16":
            return rows.astype(np.float16).astype(np.float32)
        number = TENSOR_TYPES[type_name]
        rows = np.ascontiguousarray(rows, np.float32)
        n_rows, n_columns = rows.shape
        weights, n_bytes = BLOCKS[type_name]
        packed = np.empty(rows.size // weights * n_bytes, np.uint8)
        pointer = None
        if importance is not None:
            importance = np.ascontiguousarray(importance, np.float32)
            pointer = importance.ctypes.data
        self._quantize(number, rows.ctypes.data, packed.ctypes.data, 0, n_rows, n_columns, pointer)
        back = np.empty_like(rows)
        self._traits(number).contents.to_float(packed.ctypes.data, back.ctypes.data, rows.size)
        return back


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
