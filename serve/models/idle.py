"""Which models have not been used for as long as they may be idle. The caller has lock and clock."""

from __future__ import annotations

from collections.abc import Sequence

from serve.models.pooled_model import Model


def find_idle(models: Sequence[Model], now: float) -> tuple[list[Model], float | None]:
    """Those to unload, and the seconds until there may be others: None where that is never.

    A model that is loaded meanwhile is none of these before.
    """
    due: list[Model] = []
    left: list[float] = []
    for m in models:
        if m.loadable.idle is None:
            continue
        if not m.is_idle:
            m.last_used = now
        rest = m.last_used + m.loadable.idle - now
        if m.hosted and rest <= 0:
            due.append(m)
        left.append(rest if m.hosted and rest > 0 else m.loadable.idle)
    return due, min(left, default=None)
