"""Output of `turbopilot verify --task`: completions of a file beside those of its reference."""

from __future__ import annotations

from pathlib import Path

from turbopilot.base.counts import count
from turbopilot.render import console
from turbopilot.render.table import TableColumns
from turbopilot.render.words import share
from turbopilot.tasks.paired import Paired
from turbopilot.tasks.report import TaskReport

_COLUMNS = TableColumns(("", "reference", "file", "difference", "95 % interval", "p"))


def show_tasks(report: TaskReport) -> None:
    """Print a report as a table."""
    r = report
    n = count(r.n, "task") if r.n == r.of else f"{r.n:,} of {count(r.of, 'task')}, seed {r.seed}"
    framed = f"layout {r.layout}" if r.layout else "only the text before the gap"
    if r.suite == "complete":
        framed = "greedy"
    rows = [_row("exact match", r.exact)]
    if r.passed:
        rows.append(_row("pass@1", r.passed))
    before, after = r.similarity
    rows += [
        ["similarity", f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}", "", ""],
        ["same first token", "", share(r.first_tokens / max(1, r.n)), "", "", ""],
        ["same completion", "", share(r.equal / max(1, r.n)), "", "", ""],
    ]
    console.result("")
    title = f"{Path(r.candidate).name}: {r.title} ({n}; {framed}), compared with {Path(r.reference).name}"
    console.table(title, _COLUMNS, rows, {"p": "McNemar's exact test"})


def _row(name: str, p: Paired) -> list[str]:
    low, high = p.interval
    return [
        name, f"{p.reference:,}", f"{p.candidate:,}", f"{p.difference:+.2%}", f"{low:+.2%} … {high:+.2%}",
        f"{p.p_value:.2g}",
    ]  # fmt: skip
