"""The option `--ngl`, as `serve` and `bench` read it."""

from __future__ import annotations

from turbopilot.base.errors import InvalidInput


def gpu_layers(text: str) -> int | None:
    """A number of layers, or None for auto.

    Raises:
        InvalidInput: it is neither.
    """
    if text.lower() == "auto":
        return None
    try:
        n = int(text)
    except ValueError:
        raise InvalidInput(
            f"--ngl {text}: not a number of layers", hint="give a number, or auto"
        ) from None
    if n < 0:
        raise InvalidInput(f"--ngl {n}: must not be negative", hint="for all layers give auto")
    return n
