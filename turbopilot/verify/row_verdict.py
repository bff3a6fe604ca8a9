"""Verdict on the rows and columns of a tensor: which ones have more error than their type explains.

Three rules, from the sharpest to the widest:
1. Levels. A weight whose level is not the nearest one of its block is wrong; see `level_grids`. The rule is used if it
   holds in most tensors of a file: another program's quantizer, or a file quantized from a quantized one, breaks it
   everywhere. The rules that hold only without an importance matrix, or with the known one, are used for a tensor of
   which ggml reproduces rows.
2. Statistics, for the other types. A row's error, or its factor Σ g·w / Σ w², is far from that of the tensor's other
   rows, and worse than what ggml makes of the same row.
3. Columns. The stored column does not correlate with the expected one.

R rows, C columns; g are the stored values, w the expected ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.formats.ggml_types import FLOATS
from turbopilot.verify.criteria import WEIGHT_NOISE
from turbopilot.verify.level_grids import has_levels
from turbopilot.verify.row_figures import (
    Array,
    ColumnFigures,
    Doubles,
    Indices,
    RowFigures,
    StoredRows,
    to_bf16,
    to_f16,
)

Mask: TypeAlias = npt.NDArray[np.bool_]

_KEEPS: Final = 0.01  # largest share of misplaced rows in a tensor that keeps the rule of levels
_MOST_PLAIN: Final = (
    0.2  # largest share of rows in a tensor that may break the rules for no importance matrix
)
# Limits of a row relative to the tensor: error, and deviations of the factor in standard errors.
_ERROR_ROOM: Final = 4.0
_DEVIATIONS: Final = 8.0
# Largest error relative to ggml's own error for the same row. With an importance matrix, a large weight of little
# importance is cut off: 5 times in a row of SmolLM2-135M, with weights of importance that differ by factors of 1000.
_OWN_ROOM: Final = 10.0
_FACTOR: Final = (
    0.005  # smallest deviation of a factor that counts, in addition to half of the type's noise
)
_ALIKE: Final = 0.5  # smallest correlation of a stored column with the expected one
_NEIGHBOURS: Final = 32  # columns that share scales
_COLUMN_ROOM: Final = 8.0  # largest error of a column relative to its neighbours'
_MOST_COLUMNS: Final = 8
_FEW_ROWS: Final = 64  # with fewer rows, the correlation of columns is too uncertain
# Without nearest levels and without signs of all weights, columns of little importance may be lost.
_COARSE: Final = (
    "IQ1_S",
    "IQ1_M",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ3_XXS",
    "TQ1_0",
    "TQ2_0",
    "Q1_0",
    "Q2_0",
)


@dataclass(frozen=True, slots=True)
class Requantized:
    """Rows that ggml quantized again, without an importance matrix unless that is known."""

    equal: Mask  # (R,) whether the bytes are those of the file
    error: Doubles  # (R,) Σ (ĝ − w)²
    along: Doubles  # (R,) Σ (ĝ − w)·w

    @classmethod
    def of(cls, stored: StoredRows, rows: Indices, values: Array) -> Requantized:
        """Quantize the expected values of some rows, (R, C), and compare them with the stored bytes."""
        packed = stored.packed(rows)
        again = stored.quantized(rows, values)
        equal: Mask = (again == packed).all(axis=1)
        for rounded in (
            to_f16,
            to_bf16,
        ):  # the checkpoint may be more exact than the file that was quantized
            odd = np.flatnonzero(~equal)
            other = stored.quantized(rows[odd], rounded(values[odd]))
            equal[odd] = (other == packed[odd]).all(axis=1)
        delta = (stored.unpacked(again) - values).astype(np.float64)
        return cls(equal, np.square(delta).sum(axis=1), (delta * values).sum(axis=1))


def keeps_levels(f: RowFigures) -> bool:
    """Return whether nearly every row of a tensor has the nearest levels."""
    return float((f.always > 0).mean()) <= _KEEPS


def suspects(f: RowFigures, type_name: str, *, by_levels: bool) -> Mask:
    """Return the rows to examine. If `by_levels`, the rule of levels is used."""
    found: Mask = (
        (f.always > 0) if by_levels or type_name in FLOATS else np.zeros(len(f.power), bool)
    )
    if type_name in FLOATS:
        return found
    if by_levels and has_levels(type_name):
        # The row's own scales explain every weight: what remains is a large weight of little importance, cut off.
        return found
    return found | plain_suspects(f) | _by_error(f, type_name) | _by_factor(f, type_name)


def plain_suspects(f: RowFigures) -> Mask:
    """Return the rows that break the rules for no or a known importance matrix; none if too many do: it was another."""
    found: Mask = f.plain > 0
    return found if reproduces(f) else np.zeros(len(found), bool)


def reproduces(f: RowFigures) -> bool:
    """Return whether nearly every row of a tensor follows the rules for no or a known importance matrix."""
    return float((f.plain > 0).mean()) <= _MOST_PLAIN


def _by_error(f: RowFigures, type_name: str) -> Mask:
    usual = f.power > 0
    middle = float(np.median(f.relative[usual])) if usual.any() else 0.0
    limit = max(_ERROR_ROOM * WEIGHT_NOISE[type_name], _ERROR_ROOM * middle)
    return np.asarray(usual & (f.relative > limit))


def _by_factor(f: RowFigures, type_name: str) -> Mask:
    power = np.maximum(f.power, 1e-300)
    factor = f.along / power
    off = np.abs(factor - np.median(factor))
    least = _FACTOR + WEIGHT_NOISE[type_name] / 2
    return np.asarray(off > np.maximum(_DEVIATIONS * np.sqrt(f.spread) / power, least))


def wrong_rows(
    f: RowFigures,
    rows: Indices,
    again: Requantized,
    type_name: str,
    *,
    by_levels: bool,
    plain: bool,
) -> Mask:
    """Return which of the examined rows are wrong.

    Args:
        f: figures of all rows.
        rows: the examined rows.
        again: what ggml makes of these.
        type_name: the tensor's type.
        by_levels: whether the rule of levels is used.
        plain: whether the rules for files without an importance matrix, or with the known one, are used.
    """
    if type_name in FLOATS:
        return np.ones(len(rows), bool)
    power = np.maximum(f.power[rows], 1e-300)
    levels = (f.always[rows] > 0) & by_levels
    levels |= (f.plain[rows] > 0) & plain
    # Near zero, ggml's own row may be all zeros.
    worse = f.error[rows] > _OWN_ROOM * np.maximum(again.error, WEIGHT_NOISE[type_name] * power)
    worse &= _by_error(f, type_name)[rows]
    off = np.abs(f.along[rows] - again.along) / power
    least = _FACTOR + WEIGHT_NOISE[type_name] / 2
    scaled = off > np.maximum(_DEVIATIONS * np.sqrt(f.spread[rows]) / power, least)
    scaled &= _by_factor(f, type_name)[rows]
    return np.asarray((levels | worse | scaled) & ~again.equal)


def wrong_columns(c: ColumnFigures, n_rows: int, type_name: str) -> Indices:
    """Return the columns that do not correlate with the expected ones.

    A column of small weights beside large ones is all rounding error, but that is no larger than its neighbours' error.
    """
    if n_rows < _FEW_ROWS or type_name in _COARSE:
        return np.zeros(0, np.intp)
    size = np.sqrt(c.power * c.stored)
    error = c.power + c.stored - 2 * c.product
    blocks = np.pad(error, (0, -len(error) % _NEIGHBOURS), mode="edge").reshape(-1, _NEIGHBOURS)
    usual = np.repeat(np.median(blocks, axis=1), _NEIGHBOURS)[: len(error)]
    found = np.flatnonzero((c.product < _ALIKE * size) & (error > _COLUMN_ROOM * usual))
    # If more are wrong, it is not the columns that were confused.
    return found if len(found) <= _MOST_COLUMNS else found[:0]
