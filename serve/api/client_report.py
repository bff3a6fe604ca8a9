"""Reports of Tabby's and Sweep's clients about completions that were shown.

Sources: tabby-agent's TelemetryEvent handling (TabbyML/tabby, clients/tabby-agent) sends `{"type": "view" | "select" |
"dismiss", "completion_id": …}`; a part of a completion that was accepted is a "select" with `select_kind`. Sweep's
plugins (sweepai's VS Code and JetBrains plugins, and cursortab.nvim's metrics.go) send `{"event_type":
"autocomplete_suggestion_shown" | "…_accepted" | "…_disposed", "autocomplete_id": …}`, and other types later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, get_args

from serve.api.body import read_any_json
from turbopilot.base.errors import InvalidRequest

Report: TypeAlias = Literal["shown", "accepted", "dismissed"]
REPORTS: Final[tuple[Report, ...]] = get_args(Report)
_TABBY: Final[Mapping[str, Report]] = {
    "view": "shown",
    "select": "accepted",
    "dismiss": "dismissed",
}
_SWEEP: Final[Mapping[str, Report]] = {
    "autocomplete_suggestion_shown": "shown",
    "autocomplete_suggestion_accepted": "accepted",
    "autocomplete_suggestion_disposed": "dismissed",
}


def tabby_report(data: bytes) -> Report | None:
    """Return what a Tabby event reports; None if the body is anything else."""
    return _report(data, "type", _TABBY)


def sweep_report(data: bytes) -> Report | None:
    """Return what a Sweep event reports; None if the body is anything else."""
    return _report(data, "event_type", _SWEEP)


def _report(data: bytes, field: str, known: Mapping[str, Report]) -> Report | None:
    try:
        body: Any = read_any_json(data)
    except InvalidRequest:
        return None
    kind = body.get(field) if isinstance(body, dict) else None
    return known.get(kind) if isinstance(kind, str) else None
