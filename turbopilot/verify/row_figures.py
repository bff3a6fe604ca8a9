"""Error of every row of a tensor, read in blocks. R rows, C columns; a stack of matrices is one matrix of all rows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.base.errors import CorruptModel
from turbopilot.base.machine import usable_cores
from turbopilot.formats.ggml_types import FLOATS
from turbopilot.formats.gguf.file import TensorInfo
from turbopilot.verify.criteria import WEIGHT_NOISE
from turbopilot.verify.level_grids import Misplaced, changed, has_levels, misplaced

if TYPE_CHECKING:
    from turbopilot.llama.rounding import Rounding

Array: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Packed: TypeAlias = npt.NDArray[np.uint8]
Indices: TypeAlias = npt.NDArray[np.intp]

_BLOCK: Final = (
    1 << 18
)  # weights compared at once, so that the intermediate results stay in the processor's cache
# Largest rounding errors: relative, and absolute near zero. F32: a few operations of a converter.
_EXACT: Final = {"F32": (2.0**-22, 0.0), "F16": (2.0**-11, 2.0**-25), "BF16": (2.0**-8, 0.0)}
# Types of which ggml aborts without a matrix. Source: ggml.c, ggml_quantize_requires_imatrix.
_NEED_MATRIX: Final = ("IQ2_XXS", "IQ2_XS", "IQ1_S")
_OF_RMS: Final = 2.0**-24  # of F32: absolute error relative to the row's root mean square


@dataclass(frozen=True, slots=True)
class RowFigures:
    """Figures of each of R rows; g are the stored values, w the expected ones."""

    power: Doubles  # (R,) Σ w²
    error: Doubles  # (R,) Σ (g − w)²
    along: Doubles  # (R,) Σ (g − w)·w
    spread: Doubles  # (R,) Σ (g − w)²·w²
    largest: Array  # (R,) max |g − w|
    always: Array  # (R,) see `Misplaced`
    plain: Array  # (R,) see `Misplaced`

    @property
    def relative(self) -> Doubles:
        """Relative error of each row, Σ (g − w)² / Σ w²; 0 for rows of zeros."""
        return np.asarray(self.error / np.maximum(self.power, 1e-300))


@dataclass(frozen=True, slots=True)
class ColumnFigures:
    """Sums over the rows for each of C columns."""

    power: Doubles  # (C,) Σ w²
    stored: Doubles  # (C,) Σ g²
    product: Doubles  # (C,) Σ g·w


class StoredRows:
    """Rows of a tensor in a GGUF file, (R, C), memory-mapped and dequantized by ggml.

    Args:
        info: the tensor.
        ggml: quantizes and dequantizes.
        importance: importance matrix that it was quantized with, (M, C) for M matrices; None if it is unknown.

    Raises:
        CorruptModel: verify cannot dequantize the type.
    """

    def __init__(self, info: TensorInfo, ggml: Rounding, importance: Array | None = None) -> None:
        if info.type_name not in (*FLOATS, *WEIGHT_NOISE):
            raise CorruptModel(
                f"{info.path}: tensor {info.name!r} has type {info.type_name}, which verify cannot dequantize",
                hint="verify the file that it was quantized from",
            )
        self.info, self.ggml = info, ggml
        self.n_rows = info.n_weights // info.shape[0]
        self.n_columns = info.shape[0]
        self._per_matrix = info.shape[1] if len(info.shape) > 1 else 1
        self._importance = None if info.type_name in FLOATS else importance
        raw = np.memmap(info.path, np.uint8, "r", info.offset, (info.n_bytes,))
        self._raw = raw.reshape(self.n_rows, -1)

    def packed(self, rows: Any) -> Packed:
        """Return a copy of the bytes of some rows, given by a slice or by indices."""
        return np.array(self._raw[rows])

    def values(self, rows: Any) -> Array:
        """Return the values of some rows, given by a slice or by indices."""
        return self.unpacked(self.packed(rows))

    def unpacked(self, packed: Packed) -> Array:
        """Return the values of rows of bytes."""
        kind = self.info.type_name
        if kind == "F32":
            return packed.view(np.float32)
        if kind == "F16":
            return packed.view(np.float16).astype(np.float32)
        if kind == "BF16":
            return (packed.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return self.ggml.values(packed, kind)

    @property
    def needs_matrix(self) -> bool:
        """Whether rows are compared with what ggml makes of them, since the levels alone do not decide."""
        return self._importance is not None and not has_levels(self.info.type_name)

    def quantized(self, rows: Indices, values: Array) -> Packed:
        """Return what ggml makes of the values of some rows, with the importance matrix if it is known."""
        kind = self.info.type_name
        values = np.ascontiguousarray(values)
        if self._importance is None:
            flat = np.ones(self.n_columns, np.float32) if kind in _NEED_MATRIX else None
            return self.ggml.packed(values, kind, flat)
        packed = np.empty((len(rows), self._raw.shape[1]), np.uint8)
        matrix = rows // self._per_matrix
        for m in np.unique(matrix):
            packed[matrix == m] = self.ggml.packed(values[matrix == m], kind, self._importance[m])
        return packed

    def misplaced(self, rows: Indices, packed: Packed, got: Array, values: Array) -> Misplaced:
        """Return by how much the worst weight of each row is off; of floats relative to the rounding error."""
        if (kind := self.info.type_name) not in _EXACT:
            found = misplaced(kind, packed, got, values, self.ggml)
            if not self.needs_matrix:
                return found
            return Misplaced(found.always, changed(kind, packed, self.quantized(rows, values)))
        share, least = _EXACT[kind]
        allowed = np.abs(values) * np.float32(share * 1.001) + np.float32(least)
        if kind == "F32":
            mean = np.square(values, dtype=np.float64).mean(axis=1, keepdims=True)
            allowed += (_OF_RMS * np.sqrt(mean)).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            beyond = np.abs(got - values) - allowed
        worst = np.nan_to_num(beyond, nan=np.inf).max(axis=1)
        return Misplaced(worst, np.full(len(got), -1, np.float32))


def measure(rows: StoredRows, values: Array) -> tuple[RowFigures, ColumnFigures]:
    """Compare every row with the expected values, (R, C), in as many threads as there are cores."""

    def compare(block: slice) -> tuple[RowFigures, ColumnFigures]:
        packed = rows.packed(block)
        got, should = rows.unpacked(packed), values[block]
        off = _least_misplaced(rows, np.arange(rows.n_rows)[block], packed, got, should)
        with np.errstate(over="ignore", invalid="ignore"):
            return _of_rows(got, should, off), _of_columns(got, should)

    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = list(pool.map(compare, _blocks(rows)))
    of_rows, of_columns = zip(*parts, strict=True)
    joined = (np.concatenate([getattr(p, f.name) for p in of_rows]) for f in fields(RowFigures))
    summed = (sum(getattr(p, f.name) for p in of_columns) for f in fields(ColumnFigures))
    return RowFigures(*joined), ColumnFigures(*summed)


def _least_misplaced(
    rows: StoredRows, at: Indices, packed: Packed, got: Array, should: Array
) -> Misplaced:
    """Return by how much the worst weight of each row is off, by the rounding of the source that explains it best."""
    off = rows.misplaced(at, packed, got, should)
    if rows.info.type_name in FLOATS:
        return off
    for rounded in (to_f16, to_bf16):
        odd = np.flatnonzero(np.maximum(off.always, off.plain) > 0)
        if not len(odd):
            break
        other = rows.misplaced(at[odd], packed[odd], got[odd], rounded(should[odd]))
        off.always[odd] = np.minimum(off.always[odd], other.always)
        off.plain[odd] = np.minimum(off.plain[odd], other.plain)
    return off


def _blocks(rows: StoredRows) -> Iterator[slice]:
    step = max(1, _BLOCK // rows.n_columns)
    for start in range(0, rows.n_rows, step):
        yield slice(start, min(start + step, rows.n_rows))


def _of_columns(got: Array, should: Array) -> ColumnFigures:
    def total(a: Array, b: Array) -> Doubles:
        sums: Doubles = np.einsum("rc,rc->c", a, b).astype(np.float64)
        return sums

    return ColumnFigures(total(should, should), total(got, got), total(got, should))


def _of_rows(got: Array, should: Array, off: Misplaced) -> RowFigures:
    delta = got - should
    products = delta * should

    def total(a: Array, b: Array) -> Doubles:
        sums: Doubles = np.einsum("rc,rc->r", a, b).astype(np.float64)
        return sums

    return RowFigures(
        power=total(should, should), error=total(delta, delta), along=total(delta, should),
        spread=total(products, products), largest=np.abs(delta).max(axis=1), always=off.always, plain=off.plain,
    )  # fmt: skip


# Most files are quantized from an F16 or a BF16 file, and the checkpoint may be more exact.
def to_f16(values: Array) -> Array:
    """Round to F16 and back."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def to_bf16(values: Array) -> Array:
    """Round to BF16 and back: to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    back: Array = rounded.view(np.float32)
    return back
