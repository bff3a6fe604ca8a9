"""Options of `serve` for several models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from serve.options import Option
from turbopilot.base.sizes import parse_size

# A table, one option a field:
# fmt: off

@dataclass(frozen=True, slots=True)
class PoolOptions:
    """Limits for several models on one machine.

    Attributes:
        memory: in bytes; None means three quarters of the machine's memory.
        idle: in seconds; 0 means never. None means IDLE_SECONDS, except for the default model, which stays loaded.
    """

    memory: Annotated[int | None, Option(
        "--model-memory", "Memory limit for all loaded models together, such as 12GB. If a model does not fit, the "
        "least recently used models are unloaded. auto is three quarters of this machine's memory.",
        auto=True, metavar="SIZE", convert=parse_size,
    )] = None
    idle: Annotated[float | None, Option(
        "--idle-unload", "Unload a model after this many minutes without a request; the next request loads it again. "
        "0 means never. Default: 30, except for the default model, which stays loaded.",
        least=0, metavar="MINUTES", convert=lambda _, minutes: 60 * minutes,
    )] = None

# fmt: on
