"""Which models make room for another one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from turbopilot.base.errors import Overloaded

RETRY_SECONDS: Final = 5  # after which a model in use may be idle: suggestions take less


@dataclass(frozen=True, slots=True)
class Tenant:
    """A loaded model.

    Attributes:
        name: its.
        n_bytes: what it takes, about.
        last_used: when; only the order matters.
        is_idle: whether it may go.
    """

    name: str
    n_bytes: int
    last_used: float
    is_idle: bool


def make_room(name: str, n_bytes: int, memory: int, tenants: Sequence[Tenant]) -> list[str]:
    """Those that go so that another one fits, the least recently used first; none where they would not suffice.

    Args:
        name: of the model to come.
        n_bytes: what it takes.
        memory: bytes for all.
        tenants: those that are loaded.

    Raises:
        Overloaded: those in use leave no room.
    """
    excess = sum(t.n_bytes for t in tenants) + n_bytes - memory
    going: list[str] = []
    for t in sorted((t for t in tenants if t.is_idle), key=lambda t: t.last_used):
        if excess <= 0:
            break
        going.append(t.name)
        excess -= t.n_bytes
    if excess <= 0:
        return going
    staying = ", ".join(f"{t.name} ({megabytes(t.n_bytes)})" for t in tenants if not t.is_idle)
    raise Overloaded(
        f"no room for {name} ({megabytes(n_bytes)}): {staying} in use, and all may take {megabytes(memory)}",
        retry_after=RETRY_SECONDS,
        hint="try again, or give the models more with --model-memory",
    )


def megabytes(n: int) -> str:
    """A size for a person."""
    return f"{n / 1e6:,.1f} MB"
