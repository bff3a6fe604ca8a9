"""SVG plot of measured files: size against KL divergence or speed; faster files have larger points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from turbopilot.base.counts import count
from turbopilot.bench.results import Divergence, Measured
from turbopilot.render.scale import Scale
from turbopilot.render.svg import Labels, Spot, plot, standalone
from turbopilot.tasks.report import TaskReport

_LARGEST, _SMALLEST = 8.0, 2.5  # radius of a point, in the plot's units
_UNITS: Final = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


@dataclass(frozen=True, slots=True)
class BenchRow:
    """Row of the table and point of the plot; `name` is the file's name, `tasks` its completions of tasks."""

    name: str
    measured: Measured
    divergence: Divergence | None = None
    tasks: TaskReport | None = None

    @property
    def speed(self) -> float:
        """Decode speed in tokens per second, or the prefill speed if decoding was not timed; 0 if nothing was timed."""
        rate = self.measured.generation or self.measured.prompt
        return rate.median if rate else 0.0

    @property
    def kl(self) -> float | None:
        """Mean KL divergence in nats; None if it was not measured."""
        return self.divergence.mean_kl if self.divergence else None


def drawn(rows: Sequence[BenchRow]) -> str:
    """Return a plot of the files by size (x) and mean KL divergence (y, logarithmic), or speed if not all have one.

    The area of a point is proportional to its speed. Files with a divergence of 0 are drawn on the lower edge.
    """
    unit, name = next(u for u in _UNITS if max(r.measured.n_bytes for r in rows) >= u[0])
    kls = [r.kl for r in rows if r.kl is not None]
    with_kl = len(kls) == len(rows)
    x = [r.measured.n_bytes / unit for r in rows]
    y = kls if with_kl else [r.speed for r in rows]
    fastest = max(r.speed for r in rows) or 1.0
    labels = [_label(r, rows) for r in rows]
    spots = []
    for a, b, r, label in zip(x, y, rows, labels, strict=True):
        title = f"{r.name}: {label}" + ("" if r.kl is None else f", mean KL {r.kl:.3g}")
        radius = max(_SMALLEST, _LARGEST * (r.speed / fastest) ** 0.5)
        spots.append(Spot(a, b, "k1", title, radius=radius))
    least = min((v for v in y if v > 0), default=1.0)
    # Half of the smallest value, so that only a divergence of 0 is drawn on the lower edge.
    kl_scale = Scale.of([*y, least / 2], log=True)
    up = ("mean KL, nats", kl_scale) if with_kl else ("tokens/s", Scale.of([0, *y]))
    drawing = plot(
        f"{count(len(rows), 'file')} by size and {up[0]}",
        (f"size, {name}", Scale.of([0, *x])),
        up,
        [*spots, Labels(x, y, labels)],
        height=340.0,
    )
    return standalone(drawing)


def _label(row: BenchRow, rows: Sequence[BenchRow]) -> str:
    """Return a point's label: type (name if types repeat), threads if they vary, speed, and solved tasks."""
    m = row.measured
    same_type = [r for r in rows if r.measured.type_name == m.type_name]
    words = m.type_name if len({r.name for r in same_type}) == 1 else row.name
    if len({r.measured.n_threads for r in rows}) > 1:
        words += f", {count(m.n_threads, 'thread')}"
    words += f", {row.speed:,.{'3g' if row.speed < 1000 else '0f'}} tokens/s"
    if row.tasks:
        words += f", solves {row.tasks.exact.candidate:,} of {row.tasks.n:,}"
    return words
