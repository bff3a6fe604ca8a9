"""Options of `turbopilot serve` that are a number or a word."""

from __future__ import annotations

from pathlib import Path

from serve.settings import FIM_ORDERS, MAX_PARALLEL, CacheOptions, FimOrder
from turbopilot.base.errors import InvalidInput
from turbopilot.render import console


def cache_options(
    prefix_cache: str, folder: Path | None, draft: str | None, *, no_drafts: bool, no_ahead: bool
) -> CacheOptions:
    """What is kept and guessed.

    Raises:
        InvalidInput: options that contradict each other, or no size.
    """
    from turbopilot.app.resolve import resolve_gguf

    size = prefix_size(prefix_cache)
    if folder and size == 0:
        raise InvalidInput(
            "--prefix-cache-dir keeps what --prefix-cache 0 does not have", hint="give one of them"
        )
    if draft and no_drafts:
        raise InvalidInput("--draft guesses what --no-drafts forbids", hint="give one of them")
    file = resolve_gguf(draft, console.REPORTER) if draft else None
    return CacheOptions(size, folder, not no_drafts, not no_ahead, file)


def prefix_size(text: str) -> int | None:
    """Bytes of `--prefix-cache`; None for auto."""
    from turbopilot.base.sizes import parse_size

    if text.lower() == "auto":
        return None
    return 0 if text == "0" else parse_size("--prefix-cache", text)


def choose_fim_order(text: str) -> FimOrder:
    """Of `--fim-order`."""
    for order in FIM_ORDERS:
        if text.lower() == order:
            return order
    raise InvalidInput(f"--fim-order {text}: no such order", hint="give " + " or ".join(FIM_ORDERS))


def on_or_off(option: str, text: str) -> bool | None:
    """Of an option that is on, off or auto; None for auto."""
    choices = {"auto": None, "on": True, "off": False}
    if text.lower() not in choices:
        raise InvalidInput(f"{option} {text}: no such choice", hint="give on, off or auto")
    return choices[text.lower()]


def parallel_requests(text: str) -> int | None:
    """A number of requests, or None for auto."""
    if text.lower() == "auto":
        return None
    if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_PARALLEL:
        return int(text)
    raise InvalidInput(
        f"--parallel {text}: not a number of requests", hint=f"give 1 to {MAX_PARALLEL}, or auto"
    )
