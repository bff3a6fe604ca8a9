"""Levels of quantized weights, and whether each weight has the level that its type would choose.

A type stores the scale of a block (for some, also a minimum), and a level for each weight. The last step of llama.cpp's
quantizer chooses for each weight the level that is nearest to it on the grid of its own block. This holds whatever
scales were chosen before, so with an importance matrix too. So a stored level that is not the nearest one to the
checkpoint's weight shows a wrong weight, even if the error is far smaller than the type's noise. The scales of Q4_0,
Q4_1, Q5_0 and Q5_1 are adjusted after the levels were chosen if there is a matrix: their levels are "nearest" only
without one. IQ2_S and IQ3_S choose levels from a codebook, but keep the sign of every weight; without a matrix, the
largest scale of 256 weights follows from their levels. If the matrix is known, rows of all these types are compared
with what ggml makes of them.

Source: ggml-quants.c of ggml 0.25 (quantize_row_*_ref, quantize_row_*_impl). R rows, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.formats.ggml_types import BLOCKS

if TYPE_CHECKING:
    from turbopilot.llama.rounding import Rounding

Floats: TypeAlias = npt.NDArray[np.float32]
Packed: TypeAlias = npt.NDArray[np.uint8]

_F16: Final = 2.0**-11  # largest relative rounding error of F16
_F16_LEAST: Final = 2.0**-25  # largest rounding error of F16 near zero
_SLACK: Final = 2e-3  # of a level: rounding of F32 in the quantizer and here
_F32: Final = 2.0**-21  # relative rounding error of a few F32 operations


@dataclass(frozen=True, slots=True)
class LevelGrid:
    """Grid of a type: the bytes of a block that hold levels, and the levels themselves."""

    cleared: tuple[int, int]  # bytes to zero, so that every weight gets level `lowest` or 0
    ones: tuple[
        int, int, int
    ]  # bytes to set afterwards, and their value, so that every weight gets the next level
    levels: (
        tuple[int, int] | tuple[float, ...]
    )  # lowest and highest level; or a table, in units of the next level
    rounded: float = 0  # largest multiple of an F16 number that is a scale, if levels were chosen before its rounding
    plain: bool = False  # the levels are nearest only without an importance matrix


# kvalues_iq4nl and kvalues_mxfp4 in ggml-common.h
_IQ4: Final = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_MXFP4: Final = (-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12)
_GRIDS: Final[dict[str, LevelGrid]] = {
    "Q8_0": LevelGrid((2, 34), (2, 34, 0x01), (-127, 127), rounded=1),
    "Q4_0": LevelGrid((2, 18), (2, 18, 0x11), (0, 15), rounded=1, plain=True),
    "Q4_1": LevelGrid((4, 20), (4, 20, 0x11), (0, 15), rounded=1, plain=True),
    "Q5_0": LevelGrid((2, 22), (6, 22, 0x11), (0, 31), rounded=1, plain=True),
    "Q5_1": LevelGrid((4, 24), (8, 24, 0x11), (0, 31), rounded=1, plain=True),
    "Q2_K": LevelGrid((16, 80), (16, 80, 0x55), (0, 3)),
    "Q3_K": LevelGrid((0, 96), (32, 96, 0x55), (0, 7)),
    "Q4_K": LevelGrid((16, 144), (16, 144, 0x11), (0, 15)),
    "Q5_K": LevelGrid((16, 176), (48, 176, 0x11), (0, 31)),
    "Q6_K": LevelGrid((0, 192), (0, 128, 0x11), (0, 63)),
    "IQ4_NL": LevelGrid((2, 18), (2, 18, 0x88), _IQ4, rounded=1),
    "IQ4_XS": LevelGrid((8, 136), (8, 136, 0x88), _IQ4, rounded=32),
    "MXFP4": LevelGrid((1, 17), (1, 17, 0x11), _MXFP4),
}
_SIGNED: Final = ("IQ2_S", "IQ3_S")
# IQ3_S: bytes 2 … 106 hold grid points, high bits and signs; the scale of the block is 1.033 / 31 of the largest one
_IQ3_LEVELS: Final = (2, 106)
_IQ3_LARGEST: Final = 1.033 / 31


def has_levels(type_name: str) -> bool:
    """Return whether the levels of a type are the nearest ones, with any importance matrix."""
    return type_name in _GRIDS and not _GRIDS[type_name].plain


@dataclass(frozen=True, slots=True)
class Misplaced:
    """For each row, by how much its worst weight is off, in levels; not positive if every weight is explained."""

    always: Floats  # (R,) by rules that hold with any importance matrix
    plain: Floats  # (R,) by rules that hold only without one, or only with the known one

    @classmethod
    def none(cls, n_rows: int) -> Misplaced:
        """Return a result without any misplaced weight."""
        return cls(np.full(n_rows, -1, np.float32), np.full(n_rows, -1, np.float32))


def misplaced(
    type_name: str, packed: Packed, got: Floats, values: Floats, ggml: Rounding
) -> Misplaced:
    """Compare the levels of rows with the nearest ones.

    Args:
        type_name: a quantized type.
        packed: the stored rows, (R, bytes of a row).
        got: their values, (R, C).
        values: the expected values, (R, C).
        ggml: dequantizes.
    """
    found = Misplaced.none(len(got))
    if type_name in _SIGNED:
        # Of a value near zero, rounding to F16 may have lost the sign.
        flipped = (got * values < 0) & (np.abs(values) > _F16_LEAST)
        found = Misplaced(np.where(flipped.any(axis=1), 1, -1).astype(np.float32), found.plain)
        if type_name == "IQ3_S":
            found = Misplaced(found.always, _scale_of_iq3_s(packed, got, values, ggml))
    elif grid := _GRIDS.get(type_name):
        worst = _off_grid(grid, type_name, packed, got, values, ggml)
        found = Misplaced(found.always, worst) if grid.plain else Misplaced(worst, found.plain)
    return found


def changed(type_name: str, packed: Packed, again: Packed) -> Floats:
    """Return for each row the share of its blocks that ggml made differently, beyond one half.

    ggml makes the same bytes of the same row and importance matrix. In another build of it, the rounding of a sum may
    decide between two scales that are equally good, in a few blocks.
    """
    size = BLOCKS[type_name][1]
    differ = (packed != again).reshape(len(packed), -1, size).any(axis=2)
    share: Floats = differ.mean(axis=1, dtype=np.float32) - np.float32(0.5)
    return share


def _with_bytes(type_name: str, packed: Packed, *fills: tuple[int, int, int]) -> Packed:
    """Return the rows with bytes `start` to `stop` of each block set to a value."""
    size = BLOCKS[type_name][1]
    filled = packed.reshape(-1, size).copy()
    for start, stop, value in fills:
        filled[:, start:stop] = value
    whole: Packed = filled.reshape(packed.shape)
    return whole


def _off_grid(
    grid: LevelGrid, type_name: str, packed: Packed, got: Floats, values: Floats, ggml: Rounding
) -> Floats:
    """Return for each row the largest distance, in levels, beyond half a step."""
    zero = (*grid.cleared, 0)
    unit = ggml.values(_with_bytes(type_name, packed, zero, grid.ones), type_name)
    base: Floats = np.zeros_like(unit)
    has_minimum = len(grid.levels) == 2 and grid.levels[0] == 0
    if has_minimum:
        base = ggml.values(_with_bytes(type_name, packed, zero), type_name)
        unit -= base
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = np.where(unit == 0, np.float32(0), 1 / unit)
        stored, wanted = (got - base) * inverse, (values - base) * inverse
        # Both products grow with the minimum: (w − b) / u cancels digits.
        reach = np.abs(wanted) + np.abs(base * inverse)
        slack = _SLACK + _F32 * reach
        if grid.rounded:
            # relative to the stored scale; the true one may be smaller, by half of the least number at most
            near_zero = np.minimum(_F16_LEAST * grid.rounded * np.abs(inverse), np.float32(0.5))
            slack += (_F16 + near_zero / (1 - near_zero)) * reach
            slack += near_zero * has_minimum  # the stored minimum is rounded too
        if len(grid.levels) == 2:
            beyond = np.abs(np.clip(wanted, *grid.levels) - stored) - np.float32(0.5)
        else:
            table = np.asarray(grid.levels, np.float32)
            middles = (table[1:] + table[:-1]) / 2
            nearest = table[np.searchsorted(middles, wanted)]
            # A wrong choice is off by twice the distance from the middle.
            beyond = (np.abs(wanted - stored) - np.abs(wanted - nearest)) / 2
        beyond = np.where((inverse == 0) | ~np.isfinite(inverse), np.float32(-1), beyond - slack)
    worst: Floats = np.nan_to_num(beyond, nan=1.0).max(axis=1)
    return worst


def _scale_of_iq3_s(packed: Packed, got: Floats, values: Floats, ggml: Rounding) -> Floats:
    """Return for each row the largest relative error of a block's scale.

    Without a matrix, the scale of 32 weights x with the levels q is Σ x³·q / Σ x²·q².
    """
    unit = np.abs(ggml.values(_with_bytes("IQ3_S", packed, (*_IQ3_LEVELS, 0)), "IQ3_S"))
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.where(unit > 0, np.abs(got) / unit, 0).reshape(-1, 32)
        x = np.abs(values).astype(np.float64).reshape(-1, 32)
        scale = (x**3 * level).sum(axis=1) / (x**2 * level**2).sum(axis=1)
        expected = np.nan_to_num(scale).reshape(-1, 8).max(axis=1) * _IQ3_LARGEST
        blocks = packed.reshape(-1, BLOCKS["IQ3_S"][1])
        stored = blocks[:, :2].copy().view(np.float16)[:, 0].astype(np.float64)
        off = np.abs(stored - expected) - (_F16 + 1e-4) * expected - _F16_LEAST
        off = np.where((stored > 0) & (expected > 0), off / expected, -1)
    worst: Floats = off.reshape(len(packed), -1).max(axis=1).astype(np.float32)
    return worst
