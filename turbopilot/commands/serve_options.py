"""Options of `turbopilot serve` that are a number or a word."""

from __future__ import annotations

from serve.settings import MAX_PARALLEL
from turbopilot.errors import InvalidInput


def prefix_size(text: str) -> int | None:
    """Bytes of `--prefix-cache`; None for auto."""
    from turbopilot.commands.resolve import parse_size

    if text.lower() == "auto":
        return None
    return 0 if text == "0" else parse_size("--prefix-cache", text)


def parallel_requests(text: str) -> int | None:
    """A number of requests, or None for auto."""
    if text.lower() == "auto":
        return None
    if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_PARALLEL:
        return int(text)
    raise InvalidInput(
        f"--parallel {text}: not a number of requests", hint=f"give 1 to {MAX_PARALLEL}, or auto"
    )
