"""Output of `turbopilot quantize --fit`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from turbopilot.app.fit_report import FitReport, FitRow
from turbopilot.base.counts import count
from turbopilot.base.sizes import size
from turbopilot.render import console
from turbopilot.render.bench import kl as mean_kl
from turbopilot.render.table import TableColumns

_SHOWN = 8  # rows of standard types


def show_fit(report: FitReport, *, as_json: bool) -> None:
    """Show the memory budget, and the fitted file compared with the standard types that fit too."""
    if as_json:
        console.emit_json(_json(report))
        return
    b, setup = report.budget, report.setup
    beside = (
        f"{size(b.kv)} for the KV cache of {setup.n_ctx:,} tokens ({setup.cache_type.lower()}), {size(b.compute)} for "
        f"a batch of {setup.n_batch} tokens, {size(b.process)} for the process"
    )
    room = "" if b.room is None else f"{size(b.room)} for the weights, "
    limit = "no limit for main memory" if b.total is None else f"budget {size(b.total)}"
    console.text(f"{limit}: {room}{beside}", *_on_devices(report), _how(report))
    kl, has_gpu = report.sensitivity.measured, bool(b.devices)
    headings = ["type", "weights", "memory", "measured memory"]
    headings += ["GPU", "measured GPU"] if has_gpu else []
    headings += ["KL", "measured KL", "top-1"] if kl else []
    console.table(
        f"{report.path} ({report.seconds:.1f} s), and the standard types that fit too",
        TableColumns(headings, optional=("memory", "KL", "weights", "GPU")),
        [_cells(row, kl=kl, has_gpu=has_gpu) for row in (report.fitted, *report.plain[:_SHOWN])],
    )
    if (more := len(report.plain) - _SHOWN) > 0:
        what = "worse" if kl else "smaller"
        console.result(f"… and {count(more, 'more type')}, all {what} (--json shows all)")
    n_weights = sum(report.fitted.types.values())
    shares = sorted(report.fitted.types.items(), key=lambda item: -item[1])
    console.text("memory, KL: predicted" if kl else "memory: predicted")
    if (found := report.rank_correlation) is not None:
        n = sum(1 for row in (report.fitted, *report.plain) if row.divergence)
        console.text(f"rank correlation of predicted and measured KL, {n} files: {found:.2f}")
    console.text(f"fitted: {', '.join(f'{kind} {n / n_weights:.0%}' for kind, n in shares)}")
    if b.total is not None and (over := (report.fitted.measured_footprint or 0) - b.total) > 0:
        console.info(f"the file takes {size(over)} more memory than the limit")


def _on_devices(report: FitReport) -> list[str]:
    """Return a line for each GPU, and how to serve the file there; [] without a limit for GPUs."""
    placement, b, setup = report.fitted.placement, report.budget, report.setup
    if placement is None:
        return []
    lines = []
    for share, limit in zip(placement.shares, b.devices, strict=True):
        head = " and the output head" if share.has_output else ""
        lines.append(
            f"{share.device}, {size(limit)}: {count(len(share.layers), 'layer')}{head}, {size(share.weights)} of "
            f"weights, {size(share.kv)} of KV cache, {size(share.compute)} of buffers"
        )
    layers = placement.n_gpu_layers if placement.cpu.layers else "all"
    sizes = ",".join(map(str, b.devices))
    lines.append(
        f"serve it: turbopilot serve {report.path} --ctx {setup.n_ctx} --parallel {setup.n_seq} "
        f"--cache-type {setup.cache_type.lower()} --flash-attn on --ngl {layers} --gpu-memory {sizes} --gpu-margin 0"
    )
    return lines


def _json(report: FitReport) -> dict[str, Any]:
    """Return the report for JSON, in bytes, nats and seconds."""
    found = report.sensitivity
    return {
        "path": str(report.path),
        "memory": {**asdict(report.budget), "room": report.budget.room},
        "n_parallel": report.setup.n_seq,
        "n_ctx": report.setup.n_ctx,
        "cache_type": report.setup.cache_type,
        "sensitivity": {
            "measured": found.measured, "groups": found.n_groups, "positions": found.positions,
            "seconds": found.seconds, "scale": found.scale,
        },
        "fitted": _row(report.fitted),
        "plain": [_row(row) for row in report.plain],
        "rank_correlation": report.rank_correlation,
        "seconds": report.seconds,
    }  # fmt: skip


def _row(row: FitRow) -> dict[str, Any]:
    return {
        "type": row.name, "tensor_bytes": row.tensor_bytes, "predicted_bytes": row.footprint,
        "measured_bytes": row.measured_footprint,
        "predicted_on_devices": row.on_devices, "measured_on_devices": row.measured_on_devices,
        "predicted_kl": row.predicted_kl, "weights": dict(row.types),
        "divergence": asdict(row.divergence) if row.divergence else None,
    }  # fmt: skip


def _how(report: FitReport) -> str:
    found = report.sensitivity
    if found.measured:
        return (
            f"sensitivities measured: {count(found.n_groups, 'group')} of matrices, KL at "
            f"{count(found.positions, 'position')} each, {found.seconds:.0f} s"
        )
    if not found.seconds_short:
        return "types chosen by rounding errors only"
    return (
        "types chosen by rounding errors only: measuring KL divergences takes at least "
        f"{found.seconds_short / 60:.0f} min (--minutes)"
    )


def _cells(row: FitRow, *, kl: bool, has_gpu: bool) -> list[str]:
    sizes = [row.tensor_bytes, row.footprint, row.measured_footprint or 0]
    if has_gpu:
        sizes += [row.on_devices or 0, row.measured_on_devices or 0]
    cells = [row.name, *(size(n) if n else "" for n in sizes)]
    if kl:
        d = row.divergence
        cells += [
            "" if row.predicted_kl is None else f"{row.predicted_kl:.2g}",
            mean_kl(d) if d else "",
            f"{d.top1:.1%}" if d else "",
        ]
    return cells
