"""Formatting and parsing of sizes in bytes."""

from __future__ import annotations

import re

from turbopilot.base.errors import InvalidInput

_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[KMGT]?)(?P<binary>i?)B?", re.IGNORECASE)


def size(n_bytes: float) -> str:
    """Return a size in bytes as text with a decimal unit.

    >>> size(13_400_000)
    '13.4 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.2f} TB"


def parse_size(option: str, text: str) -> int:
    """Return the bytes of a size above 0: 4GB and 4G are 4·10⁹ bytes, 4GiB is 4·2³⁰ bytes."""
    parts = _SIZE.fullmatch(text.strip())
    if parts:
        step = 1024 if parts["binary"] else 1000
        n_bytes = float(parts["number"]) * step ** " KMGT".index(parts["unit"].upper() or " ")
        if n_bytes >= 1:
            return int(n_bytes)
    raise InvalidInput(f"{option} {text}: not a size", hint="write it as 500MB, 4GB or 4GiB")
