"""How importance matrices are shown. Formats and hands on; gathers nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from turbopilot.render import console

if TYPE_CHECKING:
    from quantize.imatrix import GatherReport, LayerStatistics, TensorStatistics


def show_report(report: GatherReport) -> None:
    """What was gathered, and what to do with it."""
    for notice in report.notices:
        console.info(notice)
    if report.resumed_from:
        console.info(f"went on from chunk {report.resumed_from:,}")
    read = f"{report.n_chunks:,} chunks of {report.chunk_size:,} tokens"
    if report.n_text_chunks > report.n_chunks:
        read += f", of {report.n_text_chunks:,} in the text"
    loss = f", perplexity {report.perplexity:.2f}" if report.perplexity is not None else ""
    console.result(
        f"{report.path}: {report.n_entries:,} weights from {read}{loss}, {report.seconds:.1f} s"
    )
    if report.n_unseen:
        console.info(
            f"{report.n_unseen:,} experts saw no token; their inputs count alike: more text would help"
        )
    console.info(f"next: turbopilot quantize {report.model} Q4_K_M --imatrix {report.path}")


def show_matrix(path: Path, *, layers: bool, as_json: bool) -> None:
    """A matrix's figures.

    Raises:
        InvalidInput: it cannot be read.
    """
    from quantize.imatrix import by_layer, read_imatrix, statistics

    matrix = read_imatrix(path)
    tensors = statistics(matrix)
    per_layer = by_layer(tensors)
    if as_json:
        console.emit_json(
            {
                "path": str(path), "datasets": matrix.datasets, "n_chunks": matrix.n_chunks,
                "chunk_size": matrix.chunk_size, "tensors": [asdict(t) for t in tensors],
                "layers": [asdict(layer) for layer in per_layer],
            }
        )  # fmt: skip
        return
    of = f" of {matrix.chunk_size:,} tokens" if matrix.chunk_size else ""
    title = (
        f"{path}: {len(matrix.entries):,} weights, {matrix.n_chunks:,} chunks{of}, "
        f"from {', '.join(matrix.datasets) or 'a text without a name'}"
    )
    if layers:
        _layer_table(title, per_layer)
    else:
        _tensor_table(title, tensors)
        console.result(
            "Σ: sum of the channels' mean squares · active: above 1e-5 · entropy: 100 % where all channels "
            "count alike · outliers: more than σ above the mean · like before: cosine with the layer before"
        )


def _tensor_table(title: str, tensors: list[TensorStatistics]) -> None:
    console.table(
        title,
        [
            "layer", "weight", "channels", "Σ", "min", "max", "mean", "σ", "active", "entropy", "outliers",
            "like before",
        ],
        [
            [
                "" if t.layer is None else str(t.layer), _short(t.name), f"{t.n:,}",
                _number(t.total), _number(t.least), _number(t.most), _number(t.mean),
                _number(t.deviation), f"{t.active:.1%}", f"{t.entropy:.1%}", f"{t.outliers:.1%}",
                _similarity(t.similarity),
            ]
            for t in tensors
        ],
        numbers=(0, *range(2, 12)),
    )  # fmt: skip


def _layer_table(title: str, layers: list[LayerStatistics]) -> None:
    console.table(
        title,
        ["layer", "Σ", "outliers", "like before"],
        [
            [str(x.layer), _number(x.total), f"{x.outliers:.1%}", _similarity(x.similarity)]
            for x in layers
        ],
    )


def _short(name: str) -> str:
    """blk.0.attn_q.weight → attn_q."""
    inside = name.split(".", 2)[2] if name.startswith("blk.") and name.count(".") > 1 else name
    return inside.removesuffix(".weight")


def _number(value: float) -> str:
    return f"{value:.4g}"


def _similarity(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
