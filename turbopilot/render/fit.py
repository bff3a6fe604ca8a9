"""What `turbopilot quantize --fit` shows. Text and JSON only: quantizes nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from turbopilot.app.fit_report import FitReport, Row
from turbopilot.render import console

_SHOWN = 8  # of the plain types


def show(report: FitReport) -> None:
    """Where the memory goes, and the file beside the plain types that also fit."""
    b, setup = report.budget, report.setup
    console.result(
        f"{console.size(b.total)}: {console.size(b.room)} for the weights, {console.size(b.kv)} for the KV cache of "
        f"{setup.n_ctx:,} tokens ({setup.cache_type.lower()}), {console.size(b.compute)} for a batch of "
        f"{setup.n_batch}, {console.size(b.process)} for the process"
    )
    console.result(_how(report))
    kl = report.fitted.predicted_kl is not None
    columns = [
        "type",
        "weights",
        "memory",
        "measured",
        *(["KL", "measured", "top-1"] if kl else []),
    ]
    rows = [_cells(row, kl) for row in (report.fitted, *report.plain[:_SHOWN])]
    console.table(
        f"{report.path} ({report.seconds:.1f} s), and the plain types that fit too",
        columns,
        rows,
        numbers=range(1, len(columns)),
    )
    if (more := len(report.plain) - _SHOWN) > 0:
        console.result(
            f"… and {more} more types that are {'worse' if kl else 'smaller'} (--json shows all)"
        )
    console.result(f"fitted: {_types(report.fitted)}")
    if not report.fitted.memory:
        return
    over = (report.fitted.measured_footprint or 0) - b.total
    if over > 0:
        console.info(f"it takes {console.size(over)} more than it may")


def as_json(report: FitReport) -> dict[str, Any]:
    """All of it; bytes, nats, seconds."""
    found = report.sensitivity
    return {
        "path": str(report.path),
        "memory": {**asdict(report.budget), "room": report.budget.room},
        "n_ctx": report.setup.n_ctx,
        "cache_type": report.setup.cache_type,
        "sensitivity": {
            "measured": found.measured, "groups": found.n_groups, "positions": found.positions,
            "seconds": found.seconds, "scale": found.scale,
        },
        "fitted": _row(report.fitted),
        "plain": [_row(row) for row in report.plain],
        "seconds": report.seconds,
    }  # fmt: skip


def _row(row: Row) -> dict[str, Any]:
    return {
        "type": row.name, "tensor_bytes": row.tensor_bytes, "predicted_bytes": row.footprint,
        "measured_bytes": row.measured_footprint, "predicted_kl": row.predicted_kl, "weights": dict(row.types),
        "divergence": asdict(row.divergence) if row.divergence else None,
    }  # fmt: skip


def _how(report: FitReport) -> str:
    """How it was found out what matters."""
    found = report.sensitivity
    if found.measured:
        return (
            f"sensitivities measured: {found.n_groups} groups of matrices, KL at {found.positions:,} positions each, "
            f"in {found.seconds:.0f} s"
        )
    why = (
        f": there was no time for KL divergences, which take {found.seconds_short / 60:.0f} minutes at least "
        "(--minutes)"
        if found.seconds_short
        else ""
    )
    return f"chosen by errors of rounding alone{why}"


def _cells(row: Row, kl: bool) -> list[str]:
    measured = row.measured_footprint
    cells = [
        row.name,
        console.size(row.tensor_bytes),
        console.size(row.footprint),
        console.size(measured) if measured else "",
    ]
    if kl:
        d = row.divergence
        cells += [
            "" if row.predicted_kl is None else f"{row.predicted_kl:.2g}",
            (f"{d.mean_kl:.2g} ± {d.mean_kl_error:.1g}" if d.mean_kl else "0") if d else "",
            f"{d.top1:.1%}" if d else "",
        ]
    return cells


def _types(row: Row) -> str:
    """Shares of the weights, the largest first."""
    whole = sum(row.types.values())
    parts = sorted(row.types.items(), key=lambda item: -item[1])
    return ", ".join(f"{kind} {n / whole:.0%}" for kind, n in parts)
