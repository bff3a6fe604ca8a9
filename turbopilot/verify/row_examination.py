"""Examination of a tensor's suspicious rows: ggml quantizes them again, and the result decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from turbopilot.formats.ggml_types import FLOATS
from turbopilot.verify.row_figures import Array, ColumnFigures, Indices, RowFigures, StoredRows
from turbopilot.verify.row_verdict import (
    Requantized,
    keeps_levels,
    plain_suspects,
    reproduces,
    suspects,
    wrong_columns,
    wrong_rows,
)
from turbopilot.verify.row_words import WrongRows

_EXAMINED: Final = 64  # suspicious rows that ggml quantizes again
_SEEN: Final = (
    4  # other rows that it must reproduce, if the rules for files without a matrix are to be used
)


@dataclass(frozen=True, slots=True)
class MeasuredTensor:
    """A tensor of a file with the figures of its rows and columns."""

    stored: StoredRows
    figures: RowFigures
    columns: ColumnFigures

    def wrong_columns(self) -> Indices:
        """Return the columns that do not correlate with the expected ones."""
        return wrong_columns(self.columns, self.stored.n_rows, self.stored.info.type_name)

    @property
    def reproduced(self) -> bool:
        """Whether nearly all rows follow the rules for no or the known importance matrix."""
        return reproduces(self.figures)

    def suspicious(self, *, by_levels: bool) -> bool:
        """Return whether any row or column needs to be examined."""
        found = suspects(self.figures, self.stored.info.type_name, by_levels=by_levels)
        return bool(found.any() or len(self.wrong_columns()))


def holds_levels(measured: Iterable[MeasuredTensor]) -> bool:
    """Return whether the rule of levels holds in most quantized tensors of a file."""
    kept = [keeps_levels(m.figures) for m in measured if m.stored.info.type_name not in FLOATS]
    return 2 * sum(kept) > len(kept)


def examine(measured: MeasuredTensor, values: Array, *, by_levels: bool) -> WrongRows:
    """Return the wrong rows and columns of a tensor, given all expected rows, (R, C)."""
    stored, f = measured.stored, measured.figures
    kind = stored.info.type_name
    found = np.flatnonzero(suspects(f, kind, by_levels=by_levels))
    if len(found) and kind not in FLOATS:
        plain = bool(plain_suspects(f).any()) and _is_plain(measured, values, found)
        examined = found[:_EXAMINED]
        again = _again(measured, values, examined)
        wrong = wrong_rows(f, examined, again, kind, by_levels=by_levels, plain=plain)
        # Further rows are as the examined ones: too many to quantize them all in a slow type.
        rest = found[_EXAMINED:] if wrong.any() else found[:0]
        found = np.concatenate([examined[wrong], rest])
    shape = stored.info.shape
    return WrongRows(
        rows=found,
        got=stored.values(found[:_EXAMINED]),
        values=values[found[:_EXAMINED]],
        n_rows=stored.n_rows,
        per_matrix=shape[1] if len(shape) > 2 else 0,
        columns=measured.wrong_columns(),
        factor=1 + float(np.median(f.along / np.maximum(f.power, 1e-300))),
    )


def _again(measured: MeasuredTensor, values: Array, rows: Indices) -> Requantized:
    return Requantized.of(measured.stored, rows, values[rows])


def _is_plain(measured: MeasuredTensor, values: Array, found: Indices) -> bool:
    """Return whether the tensor was quantized without an importance matrix, or with the known one.

    ggml then reproduces rows that are not suspicious.
    """
    n_rows = measured.stored.n_rows
    others = np.setdiff1d(np.arange(n_rows), found)
    # Rows of zeros are reproduced whatever the matrix was.
    others = others[measured.figures.power[others] > 0]
    if not len(others):
        return False
    seen = others[np.unique(np.linspace(0, len(others) - 1, _SEEN).astype(np.intp))]
    return bool(2 * _again(measured, values, seen).equal.sum() > len(seen))
