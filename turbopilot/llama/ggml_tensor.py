"""Access to ggml's tensors through ctypes.

The library has no function that returns the dimensions of a tensor, so the layout of the struct is declared here.
`Ggml.check_layout` must succeed before a pointer in it is followed. Source: ggml/include/ggml.h, `struct ggml_tensor`
of ggml 0.25.
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from turbopilot.llama.library import Signature, declare

MAX_DIMS, MAX_OP_PARAMS, MAX_SRC, MAX_NAME = 4, 64, 10, 64  # GGML_MAX_… in ggml.h
_N_OPS: Final = 101  # GGML_OP_COUNT in ggml.h; later versions of ggml may have more
F32: Final = 0  # enum ggml_type
I32: Final = 26


class GgmlTensor(ctypes.Structure):
    """`struct ggml_tensor`: dimensions and strides innermost first, strides in bytes."""

    type: int
    buffer: int | None
    ne: Any
    nb: Any
    op: int
    src: Any
    data: int | None
    name: bytes


GgmlTensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * MAX_DIMS),
    ("nb", ctypes.c_size_t * MAX_DIMS),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * (MAX_OP_PARAMS // 4)),
    ("flags", ctypes.c_int32),
    ("src", ctypes.c_void_p * MAX_SRC),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * MAX_NAME),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_FUNCTIONS: Final[dict[str, Signature]] = {
    "ggml_get_name": ([_POINTER], ctypes.c_char_p),
    "ggml_op_desc": ([_POINTER], ctypes.c_char_p),
    "ggml_op_name": ([ctypes.c_int], ctypes.c_char_p),
    "ggml_nbytes": ([_POINTER], _SIZE),
    "ggml_nelements": ([_POINTER], ctypes.c_int64),
    "ggml_backend_buffer_is_host": ([_POINTER], ctypes.c_bool),
    "ggml_backend_tensor_get": ([_POINTER, _POINTER, _SIZE, _SIZE], None),
    "ggml_backend_tensor_set": ([_POINTER, _POINTER, _SIZE, _SIZE], None),
}


class LayoutChanged(Exception):
    """The layout of the library's tensors differs from the declaration in this module."""


def at(address: int) -> GgmlTensor:
    """Return the tensor at an address."""
    return GgmlTensor.from_address(address)


def name_of(tensor: GgmlTensor) -> str:
    """Return the name of a tensor."""
    return tensor.name.decode("utf-8", "replace")


class Ggml:
    """Functions of ggml that read and write tensors, from a ctypes library."""

    def __init__(self, library: Any) -> None:
        declare(library, _FUNCTIONS)
        self._lib = library
        self._ops: dict[int, str] = {}

    def check_layout(self, address: int, *, floats: bool = False) -> None:
        """Raise LayoutChanged if a tensor differs from ggml's report of its name, elements and operation.

        With `floats`, the tensor must also be F32, and its size in bytes is compared.
        """
        tensor, lib = at(address), self._lib
        reported = (lib.ggml_get_name(address), lib.ggml_nelements(address))
        if reported != (tensor.name, prod(tensor.ne)):
            raise LayoutChanged(
                f"a tensor is {tensor.name!r} with {prod(tensor.ne)} elements, but ggml reports {reported}"
            )
        known = 0 <= tensor.op < _N_OPS  # for other numbers ggml would read out of bounds
        # The description can differ from the name: it is "SILU" for a UNARY operation.
        if not known or (
            self.op(tensor).startswith("MUL_MAT")
            != lib.ggml_op_desc(address).startswith(b"MUL_MAT")
        ):
            raise LayoutChanged(f"a tensor has the unknown operation {tensor.op}")
        if floats and (tensor.type != F32 or lib.ggml_nbytes(address) != n_bytes(tensor)):
            raise LayoutChanged(
                f"{tensor.name!r} has {n_bytes(tensor)} bytes, but ggml reports {lib.ggml_nbytes(address)}"
            )

    def op(self, tensor: GgmlTensor) -> str:
        """Return the name of a tensor's operation, such as "MUL_MAT"."""
        if tensor.op not in self._ops:
            self._ops[tensor.op] = self._lib.ggml_op_name(tensor.op).decode()
        return self._ops[tensor.op]

    def values(self, address: int) -> npt.NDArray[Any]:
        """Return the values of an F32 or I32 tensor, (ne3, ne2, ne1, ne0), valid until the computation continues.

        Values on a device are copied.
        """
        tensor = at(address)
        size = n_bytes(tensor)
        if not tensor.buffer or not tensor.data:
            raise LayoutChanged(f"{tensor.name!r} was computed but has no memory")
        memory: Any
        if self._lib.ggml_backend_buffer_is_host(tensor.buffer):
            memory = (ctypes.c_char * size).from_address(tensor.data)
        else:
            memory = (ctypes.c_char * size)()
            self._lib.ggml_backend_tensor_get(address, memory, 0, size)
        dtype = {F32: np.float32, I32: np.int32}[tensor.type]
        sizes, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]  # views are not contiguous
        found: npt.NDArray[Any] = np.ndarray(sizes, dtype, memory, strides=strides)
        return found

    def write(self, address: int, data: npt.NDArray[Any]) -> None:
        """Copy bytes to the beginning of a tensor, on any device."""
        self._lib.ggml_backend_tensor_set(address, data.ctypes.data, 0, data.nbytes)


def n_bytes(tensor: GgmlTensor) -> int:
    """Return the bytes from the first value to the last, for types of four bytes."""
    steps = zip(tensor.ne, tensor.nb, strict=True)
    return 4 + sum((int(n) - 1) * int(stride) for n, stride in steps)
