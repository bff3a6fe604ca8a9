"""Output of `turbopilot bench`, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turbopilot.base.counts import count
from turbopilot.base.machine import cpu_name
from turbopilot.base.sizes import size
from turbopilot.render import console
from turbopilot.render.table import TableColumns

if TYPE_CHECKING:
    from turbopilot.bench import Divergence, Rate
    from turbopilot.render.bench_plot import BenchRow


def show(rows: Sequence[BenchRow], reference: Path | None) -> None:
    """Print a line about the machine, a table with one row per measurement, and a legend."""
    many = len({r.measured.n_threads for r in rows}) > 1
    headings = ["file", "type", "size", "bits"]
    headings += ["threads"] if many else []
    headings += ["prefill", "decode", "memory"]
    headings += ["mean KL", "top-1"] if reference else []
    with_tasks = any(r.tasks for r in rows)
    headings += ["solved", "same text"] if with_tasks else []
    cells = []
    for row in rows:
        m = row.measured
        cells.append([
            row.name, m.type_name, size(m.n_bytes), f"{m.bits_per_weight:.2f}",
            *([str(m.n_threads)] if many else []),
            _rate(m.prompt), _rate(m.generation), size(m.memory.peak) if m.memory else "",
            *([kl(d), f"{d.top1:.1%}"] if (d := row.divergence) else []),
            *([f"{t.exact.candidate:,}", f"{t.equal / t.n:.1%}"] if (t := row.tasks) else []),
        ])  # fmt: skip
    columns = TableColumns(
        headings, left=("type",), optional=("bits", "size", "memory", "top-1", "same text", "type")
    )
    console.table(_where(rows), columns, cells, _legend(rows, reference))


def as_json(rows: Sequence[BenchRow], reference: Path | None) -> dict[str, Any]:
    """Return the measurements for JSON, in bytes, tokens per second and nats."""
    m = rows[0].measured
    return {
        "cpu": cpu_name(),
        "devices": m.devices,
        "llama_cpp_python": m.llama_cpp,
        "built_for": m.built_for,
        "cache_type": m.cache_type,
        "against": str(reference) if reference else None,
        "files": [_file(row) for row in rows],
    }


def _file(row: BenchRow) -> dict[str, Any]:
    m = row.measured
    return {
        "file": str(m.path), "type": m.type_name, "bytes": m.n_bytes, "bits_per_weight": m.bits_per_weight,
        "threads": m.n_threads, "n_ctx": m.n_ctx,
        "prompt": _timed(m.prompt), "generation": _timed(m.generation),
        "memory": asdict(m.memory) if m.memory else None,
        "divergence": asdict(row.divergence) if row.divergence else None,
        "tasks": row.tasks.to_json() if row.tasks else None,
    }  # fmt: skip


def _timed(rate: Rate | None) -> dict[str, Any] | None:
    return {**asdict(rate), "median": rate.median, "spread": rate.spread} if rate else None


def _where(rows: Sequence[BenchRow]) -> str:
    m = rows[0].measured
    threads = " and ".join(str(n) for n in dict.fromkeys(r.measured.n_threads for r in rows))
    contexts = " and ".join(f"{n:,}" for n in dict.fromkeys(r.measured.n_ctx for r in rows))
    devices = ", ".join(m.devices) or "no GPU"
    return (
        f"llama-cpp-python {m.llama_cpp} · {cpu_name() or 'unknown CPU'} · threads: {threads} · {devices} · "
        f"context {contexts} · KV cache {m.cache_type}"
    )


def _legend(rows: Sequence[BenchRow], reference: Path | None) -> dict[str, str]:
    m = rows[0].measured
    repeats = len(m.prompt.samples) if m.prompt else 0
    prompt = f"tokens per second for {count(m.prompt.tokens, 'prompt token')}" if m.prompt else ""
    generated = f", then {count(m.generation.tokens, 'generated token')}" if m.generation else ""
    spread = f"; median of {repeats} rounds ± half of the range" if repeats > 1 else "; one round"
    legend = {"prefill, decode": f"{prompt}{generated}{spread}"}
    if m.memory:
        base = size(m.memory.base)
        legend["memory"] = (
            f"peak of the whole process, including {base} for Python and llama.cpp's library"
        )
    taken = [(r.name, sum(r.measured.memory.devices.values())) for r in rows if r.measured.memory]
    if on_gpu := [f"{name} {size(n)}" for name, n in taken if n]:
        legend["GPU memory"] = ", ".join(on_gpu)
    if reference and (d := rows[0].divergence):
        legend["mean KL"] = (
            f"divergence from {reference.name} in nats, over {count(d.positions, 'position')}; its perplexity is "
            f"{d.reference_perplexity.value:.4g}"
        )
        legend["top-1"] = "share of positions at which both models' most likely token is the same"
    if t := rows[0].tasks:
        legend["solved"] = (
            f"exact solutions of {count(t.n, 'task')}: {t.title}; the reference has {t.exact.reference:,}"
        )
        legend["same text"] = "share of tasks with the same completion as the reference"
    return legend


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return ""
    digits = 0 if rate.median >= 100 else 1
    spread = f" ± {rate.spread:,.{digits}f}" if len(rate.samples) > 1 else ""
    return f"{rate.median:,.{digits}f}{spread}"


def kl(divergence: Divergence) -> str:
    """Return the mean KL divergence with its standard error."""
    d = divergence
    return f"{d.mean_kl:.2g} ± {d.mean_kl_error:.1g}" if d.mean_kl else "0"
