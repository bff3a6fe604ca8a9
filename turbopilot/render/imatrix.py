"""Output of `turbopilot imatrix`: a result, a merged matrix or statistics."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from turbopilot.base.counts import count
from turbopilot.render import console
from turbopilot.render.table import TableColumns

if TYPE_CHECKING:
    from quantize.imatrix import GatherReport, Imatrix

_COLUMNS: Final = TableColumns(
    (
        "weight", "layer", "channels", "Σ", "min", "max", "mean", "σ", "active", "entropy", "outliers", "similarity",
    ),
    optional=("min", "max", "σ", "channels", "mean", "active"),
)  # fmt: skip
_LEGEND: Final = {
    "Σ": "sum of the channels' mean squares",
    "active": "share of channels above 1e-5",
    "entropy": "100% if all channels are equal",
    "outliers": "share of channels more than σ above the mean",
    "similarity": "cosine with the previous layer",
}


def show_report(report: GatherReport, *, as_json: bool) -> None:
    """Show the computed matrix and the command that uses it."""
    if as_json:
        console.emit_json({**asdict(report), "path": str(report.path), "model": str(report.model)})
        return
    for notice in report.notices:
        console.info(notice)
    if report.resumed_from:
        console.info(f"resumed from chunk {report.resumed_from:,}")
    read = f"{count(report.n_chunks, 'chunk')} of {report.chunk_size:,} tokens"
    if report.n_text_chunks > report.n_chunks:
        read += f", of {report.n_text_chunks:,} in the text"
    loss = f", perplexity {report.perplexity:.2f}" if report.perplexity is not None else ""
    console.result(
        f"{report.path}: {count(report.n_entries, 'weight')} from {read}{loss}, {report.seconds:.1f} s"
    )
    if report.n_unseen:
        console.info(
            f"no token was sent to {count(report.n_unseen, 'expert')}, so all inputs there have the same weight; more "
            "text would help"
        )
    console.info(f"next: turbopilot quantize {report.model} Q4_K_M --imatrix {report.path}")


def show_merged(path: Path, parts: list[Path], matrix: Imatrix, *, as_json: bool) -> None:
    """Show a merged matrix."""
    if as_json:
        console.emit_json({
            "path": str(path), "merged": [str(p) for p in parts], "n_chunks": matrix.n_chunks,
            "chunk_size": matrix.chunk_size, "n_entries": len(matrix.entries),
        })  # fmt: skip
    else:
        weights, chunks = count(len(matrix.entries), "weight"), count(matrix.n_chunks, "chunk")
        console.result(f"{path}: {weights}, {chunks}")


def show_matrix(path: Path, matrix: Imatrix, *, layers: bool, as_json: bool) -> None:
    """Show statistics, one row per tensor or, with `layers`, per layer."""
    from quantize.imatrix import by_layer, statistics

    tensors = statistics(matrix)
    per_layer = by_layer(tensors)
    if as_json:
        console.emit_json({
            "path": str(path), "datasets": matrix.datasets, "n_chunks": matrix.n_chunks,
            "chunk_size": matrix.chunk_size, "tensors": [asdict(t) for t in tensors],
            "layers": [asdict(layer) for layer in per_layer],
        })  # fmt: skip
        return
    title = (
        f"{path}: {count(len(matrix.entries), 'weight')}, {count(matrix.n_chunks, 'chunk')} of "
        f"{matrix.chunk_size:,} tokens, from {', '.join(matrix.datasets) or 'an unnamed text'}"
    )
    if layers:
        rows = [
            [str(x.layer), f"{x.total:.4g}", f"{x.outliers:.1%}", _similarity(x.similarity)]
            for x in per_layer
        ]
        console.table(title, TableColumns(("layer", "Σ", "outliers", "similarity")), rows)
        return
    rows = [
        [
            _short(t.name), "" if t.layer is None else str(t.layer), f"{t.n:,}",
            *(f"{value:.4g}" for value in (t.total, t.least, t.most, t.mean, t.deviation)),
            *(f"{value:.1%}" for value in (t.active, t.entropy, t.outliers)), _similarity(t.similarity),
        ]
        for t in tensors
    ]  # fmt: skip
    console.table(title, _COLUMNS, rows, _LEGEND)


def _short(name: str) -> str:
    """Return a tensor's name within its layer: attn_q for blk.0.attn_q.weight."""
    inside = name.split(".", 2)[2] if name.startswith("blk.") and name.count(".") > 1 else name
    return inside.removesuffix(".weight")


def _similarity(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
