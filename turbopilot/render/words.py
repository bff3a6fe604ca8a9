"""Formatting of numbers, sizes and names, for pages and plots."""

from __future__ import annotations

import math
import re

from turbopilot.base.kl_divergence import Perplexity
from turbopilot.render.scale import byte_unit


def number(value: float) -> str:
    """Return a number with about three significant digits."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def share(value: float) -> str:
    """Return a share in percent, with enough digits that only exactly 1 is shown as 100 %."""
    if not math.isfinite(value):
        return "not finite"
    for digits in (2, 3, 4):
        shown = f"{value:.{digits}%}"
        if value == 1 or float(shown[:-1]) < 100:
            break
    return shown.replace("%", " %")


def with_error(p: Perplexity) -> str:
    """Return a perplexity or a ratio of two, with as many digits as its error justifies."""
    if not (math.isfinite(p.value) and math.isfinite(p.error)) or abs(p.value) >= 1e6:
        return f"{number(p.value)} ± {number(p.error)}"
    digits = 2 if not p.error else min(8, max(2, 1 - math.floor(math.log10(p.error))))
    return f"{p.value:,.{digits}f} ± {p.error:.{digits}f}"


def size(n_bytes: int) -> str:
    """Return a size with a unit, such as 5.75 MB."""
    unit, name = byte_unit(n_bytes)
    return f"{number(n_bytes / unit) if unit > 1 else n_bytes} {name}"


def base(path: str) -> str:
    """Return the last part of a Windows or POSIX path."""
    return next((part for part in reversed(re.split(r"[\\/]", path)) if part), path)
