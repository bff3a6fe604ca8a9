"""ggml's quantizer and its inverse for matrices in memory. R rows, C columns."""

from __future__ import annotations

import ctypes
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.base.errors import QuantizationError
from turbopilot.formats.ggml_types import BLOCKS, GGML_TYPES
from turbopilot.llama.library import Signature, declare, ggml

Floats: TypeAlias = npt.NDArray[np.float32]
Packed: TypeAlias = npt.NDArray[np.uint8]

_NUMBERS: Final = {name: number for number, (name, _, _) in GGML_TYPES.items()}
# Types of activations, of which ggml has no inverse.
_ONE_WAY: Final = ("Q8_1", "Q8_K")


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
        for number, (name, *block) in GGML_TYPES.items():
            traits = self._traits(number).contents
            if name not in _ONE_WAY and [traits.blck_size, traits.type_size] != block:
                raise QuantizationError(
                    f"{name} has an unexpected block size in this llama.cpp",
                    hint="update turbopilot",
                )

    def packed(self, rows: Floats, type_name: str, importance: Floats | None = None) -> Packed:
        """Return the rows (R, C) quantized, (R, bytes of a row); C is a multiple of the type's block size.

        Some types need the importance (C,).
        """
        rows = np.ascontiguousarray(rows, np.float32)
        n_rows, n_columns = rows.shape
        weights, n_bytes = BLOCKS[type_name]
        packed = np.empty((n_rows, n_columns // weights * n_bytes), np.uint8)
        pointer = None
        if importance is not None:
            importance = np.ascontiguousarray(importance, np.float32)
            pointer = importance.ctypes.data
        number = _NUMBERS[type_name]
        self._quantize(number, rows.ctypes.data, packed.ctypes.data, 0, n_rows, n_columns, pointer)
        return packed

    def values(self, packed: Packed, type_name: str) -> Floats:
        """Return the values, (R, C), of quantized rows, (R, bytes of a row)."""
        packed = np.ascontiguousarray(packed)
        weights, n_bytes = BLOCKS[type_name]
        values = np.empty((len(packed), packed.shape[1] // n_bytes * weights), np.float32)
        to_float = self._traits(_NUMBERS[type_name]).contents.to_float
        to_float(packed.ctypes.data, values.ctypes.data, values.size)
        return values

    def rounded(self, rows: Floats, type_name: str, importance: Floats | None = None) -> Floats:
        """Return the rows (R, C) rounded to a type."""
        if type_name == "F32":
            return rows
        if type_name == "F16":
            return rows.astype(np.float16).astype(np.float32)
        return self.values(self.packed(rows, type_name, importance), type_name)
