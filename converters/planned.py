"""Content of a planned output: its tensors, with the source rows of each."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from converters.source_tensor import SourceTensor, data_bytes
from converters.spec import ArchSpec, Dims, IntArray
from turbopilot.formats.tensor_summary import bytes_by_type


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """Rows of one source tensor; `rows` is None for all rows in order."""

    source: SourceTensor
    rows: IntArray | None
    transpose: bool
    scale: float = 1.0
    offset: float = 0.0

    @property
    def formula(self) -> str:
        """The computation of each value, such as " + 1"; "" if values are copied."""
        scale = f" × {self.scale:g}" if self.scale != 1 else ""
        return scale + (f" + {self.offset:g}" if self.offset else "")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the target, outermost first."""
        n, *row = self.source.shape
        shape = (n if self.rows is None else len(self.rows), *row)
        return shape[::-1] if self.transpose else shape


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One output tensor; `shape` is outermost first. A tensor without parts is filled with zeros."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[PlannedPart, ...]

    @property
    def n_weights(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Size in the output in bytes."""
        return data_bytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Plan:
    """Content of the output; tensors in file order."""

    spec: ArchSpec
    dims: Dims
    keys: dict[str, Any]
    tensors: tuple[PlannedTensor, ...]
    dropped: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Size of all tensors in the output in bytes."""
        return sum(t.n_bytes for t in self.tensors)

    @property
    def n_weights(self) -> int:
        """Number of elements in all tensors."""
        return sum(t.n_weights for t in self.tensors)

    @property
    def metadata(self) -> dict[str, Any]:
        """GGUF metadata: `keys` prefixed with the architecture's name."""
        return {f"{self.spec.gguf}.{key}": value for key, value in self.keys.items()}

    @property
    def sources(self) -> tuple[SourceTensor, ...]:
        """Source tensor of each part; a tensor may occur several times."""
        return tuple(part.source for t in self.tensors for part in t.parts)

    def bytes_by_type(self) -> dict[str, int]:
        """Return type → bytes in the output, largest first."""
        return bytes_by_type((t.dtype, t.n_bytes) for t in self.tensors)

    @property
    def main_type(self) -> str:
        """The type that holds the most bytes."""
        return next(iter(self.bytes_by_type()), "F32")
