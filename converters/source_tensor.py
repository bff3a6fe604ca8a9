"""Location of a tensor in a checkpoint file."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from converters.encode import BLOCKS

# safetensors' name of the type → bytes per element
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor in a file: `shape` outermost first, `offset` in bytes from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def n_bytes(self) -> int:
        """Size of the data in bytes."""
        return data_bytes(self.dtype, self.shape)


def data_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the size of a tensor in bytes; quantized types consist of whole blocks."""
    if dtype in DTYPE_BYTES:
        return prod(shape) * DTYPE_BYTES[dtype]
    weights, n_bytes = BLOCKS[dtype]
    return prod(shape) // weights * n_bytes
