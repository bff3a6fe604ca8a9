"""Which models are unloaded: to make room for another, or as nobody uses them. Pure: the caller has lock and clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serve.models.pooled_model import PooledModel
from turbopilot.base.errors import Overloaded

RETRY_SECONDS: Final = 5  # after which a model in use may be idle: completions take less


def make_room(new: PooledModel, memory: int, loaded: Sequence[PooledModel]) -> list[PooledModel]:
    """Return the models to unload so that another fits, the least recently used first.

    Args:
        new: the model to load.
        memory: bytes for all.
        loaded: the models in memory.

    Raises:
        Overloaded: those in use leave no room.
    """
    excess = sum(m.n_bytes for m in loaded) + new.n_bytes - memory
    going: list[PooledModel] = []
    for m in sorted((m for m in loaded if m.is_idle), key=lambda m: m.last_used):
        if excess <= 0:
            break
        going.append(m)
        excess -= m.n_bytes
    if excess <= 0:
        return going
    staying = ", ".join(f"{m.name} ({megabytes(m.n_bytes)})" for m in loaded if not m.is_idle)
    raise Overloaded(
        f"no room for {new.name} ({megabytes(new.n_bytes)}): {staying} in use, and all may take {megabytes(memory)}",
        retry_after=RETRY_SECONDS,
        hint="try again, or give the models more with --model-memory",
    )


def find_idle(models: Sequence[PooledModel], now: float) -> tuple[list[PooledModel], float | None]:
    """Return the models to unload, and the seconds until there may be others (None: never).

    A model that is loaded in the meantime is none of these before.
    """
    due: list[PooledModel] = []
    left: list[float] = []
    for m in models:
        if m.idle is None:
            continue
        if not m.is_idle:
            m.last_used = now
        rest = m.last_used + m.idle - now
        if m.service and rest <= 0:
            due.append(m)
        left.append(rest if m.service and rest > 0 else m.idle)
    return due, min(left, default=None)


def megabytes(n: int) -> str:
    """Format a size."""
    return f"{n / 1e6:,.1f} MB"
