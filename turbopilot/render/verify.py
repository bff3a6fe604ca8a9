"""Output of `turbopilot verify`: reports as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from turbopilot.base.counts import count
from turbopilot.render import console
from turbopilot.render.table import TableColumns
from turbopilot.render.verify_figures import OVERVIEW, figures, overview
from turbopilot.render.words import number, share, with_error

if TYPE_CHECKING:
    from turbopilot.verify import VerifyReport
    from turbopilot.verify.report import Continuation

_TENSORS_SHOWN = 15


def show(reports: Sequence[VerifyReport], *, listed: bool = False) -> None:
    """Print one report in detail, or one row for each of several reports; tensors if `listed` or if the file failed."""
    if len(reports) == 1:
        _in_full(reports[0])
    else:
        _side_by_side(reports)
    for report in reports:
        if report.tensors is not None and (listed or not report.passed):
            _tensors(report)


def _in_full(report: VerifyReport) -> None:
    title = f"{report.candidate}: {report.architecture}, {report.type_name}"
    title += f" ({report.bits_per_weight:.2f} bits/weight), compared with {report.reference}"
    verdicts = {None: "", False: "ok", True: "FAILED"}
    rows = [[f.name, f.value, f.limit, verdicts[f.missed]] for f in figures(report)]
    columns = TableColumns(
        ("metric", "measured", "limit", "verdict"),
        left=("verdict",),
        optional=("limit",),
        text="measured",
    )
    console.table(title, columns, rows)
    if len(report.by_kind) > 1:
        rows = [
            [kind, f"{m.positions:,}", number(m.mean_kl), share(m.top1)]
            for kind, m in report.by_kind.items()
        ]
        console.result("")
        console.table("", TableColumns(("windows", "positions", "mean KL", "top-1")), rows)
    if report.metrics:
        console.text(f"greedy continuation: {_continuations(report.continuations)}")
    if report.limits:
        console.text(f"limits: {report.limits.origin}")
    elif report.metrics:
        name = Path(report.reference).name
        console.text(f"no limits: computing them needs a checkpoint, and {name} is a GGUF")
    if report.metrics and report.context_tested < report.n_ctx:
        console.result("to compare the full context: --full")
    if report.passed:
        versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
        verdict = "passed" if report.limits else "nothing failed"
        if report.tensors is None:
            verdict += "; the rows of matrices were not compared"
        console.text(f"{verdict} ({versions})")


def _side_by_side(reports: Sequence[VerifyReport]) -> None:
    columns = TableColumns(
        OVERVIEW,
        left=("type", "verdict"),
        optional=("bits/weight", "p99 KL", "perplexity ratio", "tokens/s", "type"),
    )
    rows = [overview(r) for r in reports]
    legend = {"tokens/s": "prefill speed on this machine, with half of its cores"}
    if m := next((r.metrics for r in reports if r.metrics), None):
        reference = with_error(m.reference_perplexity)
        legend["perplexity ratio"] = f"relative to the reference's perplexity of {reference}"
    console.table(f"compared with {reports[0].reference}", columns, rows, legend)


def _tensors(report: VerifyReport) -> None:
    tensors = report.tensors or ()
    rows = [
        [t.name, t.type_name, f"{t.relative:.1e}", f"{t.allowed:.1e}", f"{t.max_abs:.2g}", t.detail or t.source]
        for t in tensors[:_TENSORS_SHOWN]
    ]  # fmt: skip
    name, n = Path(report.candidate).name, count(len(tensors), "tensor")
    columns = TableColumns(
        ("tensor", "type", "error", "limit", "max |Δ|", "problem or source"),
        left=("type",),
        optional=("max |Δ|", "limit"),
        text="problem or source",
    )
    title = f"{name}: {n}, largest error relative to its limit first"
    console.result("")
    console.table(title, columns, rows, {"error, limit": "relative squared error"})


def _continuations(found: tuple[Continuation, ...] | None) -> str:
    if found is None:
        return "skipped: the reference is read from disk"
    parted = [c for c in found if c.margin is not None]
    if not parted:
        n = sum(c.tokens for c in found)
        return f"equal for {count(n, 'token')} in {count(len(found), 'text')}"
    c = min(parted, key=lambda c: c.equal)
    return f"different in {len(parted)} of {count(len(found), 'text')}, first at token {c.equal} by {c.margin:.2g} nats"
