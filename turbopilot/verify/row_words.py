"""Descriptions of wrong rows, columns and entries of a tensor. R rows, C columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from turbopilot.verify.row_figures import Array, Indices

_ALIKE: Final = 0.8  # correlation of a row that another row holds
_LISTED: Final = 3
_FEW: Final = 8


@dataclass(frozen=True, slots=True)
class WrongRows:
    """Wrong rows and columns of a tensor, with the stored and the expected values of the rows."""

    rows: Indices  # (W,) ascending
    got: Array  # (W, C)
    values: Array  # (W, C)
    n_rows: int  # R
    per_matrix: int  # rows of each matrix of a stack; 0 if the tensor is a single matrix
    columns: Indices
    factor: float  # usual factor of the tensor's rows, Σ g·w / Σ w²

    @property
    def any(self) -> bool:
        """Whether a row or a column is wrong."""
        return bool(len(self.rows) or len(self.columns))

    @property
    def few(self) -> bool:
        """Whether it is not the whole tensor that is wrong: a few columns, rows, or entries of a vector."""
        n, of = len(self.rows), self.n_rows
        if self.n_rows == 1:
            n, of = len(self.entries), self.values.shape[1]
        return bool(len(self.columns)) or 0 < n <= min(_FEW, of // 2)

    @property
    def entries(self) -> Indices:
        """Wrong entries of a vector, the only row."""
        delta = np.nan_to_num(np.abs(self.got[0] - self.values[0]), nan=np.inf)
        return np.flatnonzero(delta > 1e-6 * max(1e-30, float(np.abs(self.values[0]).max())))


def describe(wrong: WrongRows, expected: Array, type_name: str) -> tuple[str, str]:
    """Return the cause, a key of `diagnosis.CAUSES`, and a description of wrong rows or columns.

    `expected` are all rows of the tensor, (R, C): another row of it may be what a wrong row holds.
    """
    if len(wrong.columns):
        shown = _numbers(wrong.columns)
        n = len(wrong.columns)
        return "moved_columns", f"has other values in column{'s' if n > 1 else ''} {shown}"
    if wrong.n_rows == 1:
        return _entries(wrong)
    if held := _held(wrong, expected):
        return "moved_rows", held
    first = int(wrong.rows[0])
    words = f"{_row(first, wrong.per_matrix)} of {wrong.n_rows:,} {_how(wrong.got[0], wrong.values[0], wrong.factor)}"
    n = len(wrong.rows) - 1
    more = f" (and {n:,} more row{'s' if n > 1 else ''})" if n else ""
    cause = "scaled" if "multiplied" in words or "negated" in words else "rows"
    return cause, f"has more error than {type_name} explains: {words}{more}"


def _row(i: int, per_matrix: int) -> str:
    return f"row {i % per_matrix:,} of matrix {i // per_matrix:,}" if per_matrix else f"row {i:,}"


def _numbers(found: Indices) -> str:
    listed = [f"{i:,}" for i in found[:_LISTED].tolist()]
    more = [f"{len(found) - _LISTED:,} more"] if len(found) > _LISTED else []
    return ", ".join(listed + more)


def _entries(wrong: WrongRows) -> tuple[str, str]:
    """Describe the wrong entries of a vector."""
    got, should = wrong.got[0], wrong.values[0]
    i = int(np.nan_to_num(np.abs(got - should), nan=np.inf).argmax())
    n = len(wrong.entries) - 1
    more = f" (and {n:,} more)" if n > 0 else ""
    return "entries", f"has {got[i]:.6g} instead of {should[i]:.6g} in entry {i:,}{more}"


def _held(wrong: WrongRows, expected: Array) -> str:
    """Describe wrong rows that hold other rows of the tensor; "" if the first does not."""
    with np.errstate(invalid="ignore", over="ignore"):
        length = np.maximum(np.linalg.norm(expected, axis=1), 1e-30)
        best = []
        for got in wrong.got[:_LISTED]:
            likeness = expected @ got / length / max(1e-30, float(np.linalg.norm(got)))
            best.append((int(likeness.argmax()), float(likeness.max())))
    i, (other, likeness) = int(wrong.rows[0]), best[0]
    if other == i or not likeness > _ALIKE:
        return ""
    mine, theirs = _row(i, wrong.per_matrix), _row(other, wrong.per_matrix)
    back = dict(zip(wrong.rows.tolist(), best, strict=False)).get(other)
    if len(wrong.rows) == 2 and back and back[0] == i:
        return f"has two rows exchanged: {mine} and {theirs}"
    n = len(wrong.rows)
    return f"holds {theirs} in place of {mine}" + (f" (and {n - 1:,} more)" if n > 1 else "")


def _how(got: Array, should: Array, usual: float) -> str:
    """Describe how one row differs from the expected one; `usual` is the factor of the tensor's rows."""
    power = max(1e-30, float(should @ should))
    whole = float(got @ should) / power
    factor = whole / (usual or 1.0)
    rest = float(np.square(got - whole * should).sum()) / power
    error = float(np.square(got - should).sum()) / power
    if abs(factor + 1) < 0.1:
        return "is negated"
    if not np.isfinite(error):
        return "contains NaN or infinite values"
    # A factor is certain if it is far larger than its error, of the rest's power divided by the number of weights.
    if abs(factor - 1) > max(1e-5, 5 * (rest / len(got)) ** 0.5):
        return f"is multiplied by {factor:.4g}"
    delta = np.abs(got - should)
    i = int(delta.argmax())
    return f"differs most in column {i:,} ({got[i]:.4g}, not {should[i]:.4g}); relative error {error:.1e}"
