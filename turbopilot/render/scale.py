"""Scale of a plot's axis: maps values to 0 … 1, with round ends and ticks that are always finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

_TICKS: Final = 5
_RAISED: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNITS: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def byte_unit(n_bytes: float) -> tuple[float, str]:
    """Return the largest unit that is not above the size, in bytes, and its name."""
    return next((unit for unit in _UNITS if n_bytes >= unit[0]), (1.0, "B"))


@dataclass(frozen=True, slots=True)
class Scale:
    """Linear or logarithmic map from values to 0 … 1."""

    low: float  # value at 0; above 0 if `log`
    high: float  # value at 1; above `low`
    log: bool = False  # logarithmic: equal steps are equal ratios

    @classmethod
    def of(cls, values: npt.ArrayLike, *, log: bool = False, decades: float = 9.0) -> Scale:
        """Return a scale with round ends that contains the values.

        Args:
            values: values to show. Values that are not finite are ignored; if `log`, so are 0 and negative values.
            log: logarithmic.
            decades: maximum span of a logarithmic scale, measured down from the largest value.
        """
        given = np.asarray(values, np.float64).ravel()
        given = given[np.isfinite(given) & ((given > 0) | (not log))]
        if not len(given):
            return cls(0.1, 1.0, True) if log else cls(0.0, 1.0)
        low, high = float(given.min()), float(given.max())
        return _log_scale(low, high, decades) if log else _linear_scale(low, high)

    def at(self, value: float) -> float:
        """Return the position of a value, from 0 to 1; values outside the scale get the nearer end."""
        if math.isnan(value):
            return 0.0
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return a few round values with their labels."""
        return self._decades() if self.log else self._steps()

    def _decades(self) -> list[tuple[float, str]]:
        first, last = math.log10(self.low), math.log10(self.high)
        step = max(1, math.ceil((last - first) / (_TICKS + 1)))
        whole = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
        if len(whole) < 3:
            return [
                (v, f"{v:.0e}" if v < 1e-3 or v >= 1e5 else f"{v:g}")
                for e in range(math.floor(first), math.ceil(last) + 1)
                for v in (10.0**e, 2 * 10.0**e, 5 * 10.0**e)
                if self.low * 0.999 <= v <= self.high * 1.001
            ]
        return [(10.0**e, f"10{str(e).translate(_RAISED)}") for e in whole if e % step == 0]

    def _steps(self) -> list[tuple[float, str]]:
        step = _round_step((self.high - self.low) / _TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        plain = step >= 1e-4 and max(abs(self.low), abs(self.high)) < 1e9
        values = [i * step for i in range(first, last + 1)]
        return [(v, f"{v:,.{digits}f}" if plain else f"{v:.3g}") for v in values]


def _linear_scale(low: float, high: float) -> Scale:
    # Larger values would overflow when subtracted.
    low, high = max(low, -1e300), min(high, 1e300)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(high) / 2 or 0.5
        low, high = low - room, high + room
    step = _round_step((high - low) / _TICKS)
    return Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)


def _log_scale(low: float, high: float, decades: float) -> Scale:
    high = min(max(high, 1e-290), 1e300)
    low = max(min(low, high), high / 10**decades, 1e-300)
    if high / low > 10:
        first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
        return Scale(10.0**first, 10.0**last, True)
    e = math.floor(math.log10(low) + 1e-9)
    around = [m * 10.0**k for k in range(e - 1, e + 3) for m in (1, 2, 5)]
    below, above = (v for v in around if v <= low / 1.05), (v for v in around if v >= high * 1.05)
    return Scale(max(below), min(above), True)


def _round_step(about: float) -> float:
    """Return 1, 2 or 5 times a power of ten, not below `about`."""
    power = 10.0 ** math.floor(math.log10(about))
    return next((m * power for m in (1, 2, 5) if m * power >= about * (1 - 1e-9)), 10 * power)
