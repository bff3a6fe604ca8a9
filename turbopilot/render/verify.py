"""Output of `turbopilot verify`: reports as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from turbopilot.render import console
from turbopilot.render.verify_figures import OVERVIEW, figures, overview
from turbopilot.render.words import number, share, with_error

if TYPE_CHECKING:
    from turbopilot.verify import VerifyReport
    from turbopilot.verify.report import Continuation

_TENSORS_SHOWN = 15


def show(reports: Sequence[VerifyReport]) -> None:
    """Print one report in detail, or one row for each of several reports."""
    if len(reports) == 1:
        _in_full(reports[0])
    else:
        _side_by_side(reports)
    for report in reports:
        if report.tensors is not None:
            _tensors(report)


def _in_full(report: VerifyReport) -> None:
    title = f"{report.candidate}: {report.architecture}, {report.type_name}"
    title += f" ({report.bits_per_weight:.2f} bits/weight), compared with {report.reference}"
    verdicts = {None: "", False: "ok", True: "FAILED"}
    rows = [[f.name, f.value, f.limit, verdicts[f.missed]] for f in figures(report)]
    if len(report.by_kind) > 1:
        rows += [
            [f"  {kind}", f"KL {number(m.mean_kl)}, top-1 {share(m.top1)} of {m.positions:,}", "", ""]
            for kind, m in report.by_kind.items()
        ]  # fmt: skip
    if report.metrics:
        rows.append(["greedy continuation", _continuations(report.continuations), "", ""])
    console.table(title, ["", "measured", "limit", "verdict"], rows, numbers=(1, 2))
    if report.limits:
        console.result(f"limits: {report.limits.origin}")
    elif report.metrics:
        name = Path(report.reference).name
        console.result(f"no limits: computing them needs a checkpoint, and {name} is a GGUF")
    if report.metrics and report.context_tested < report.n_ctx:
        console.result("to compare the full context: --full")
    if report.passed:
        versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
        console.result(f"{'passed' if report.limits else 'nothing failed'} ({versions})")


def _side_by_side(reports: Sequence[VerifyReport]) -> None:
    table = [OVERVIEW, *map(overview, reports)]
    columns, *rows = [[*row[:3], *row[4:]] for row in table]  # bits/weight left out to save width
    console.table(f"compared with {reports[0].reference}", columns, rows, numbers=range(2, 8))
    if m := next((r.metrics for r in reports if r.metrics), None):
        console.result(
            f"perplexity ratio: relative to the reference's perplexity of {with_error(m.reference_perplexity)}\n"
            f"tokens/s: prefill speed on this machine, with half of its cores"
        )


def _tensors(report: VerifyReport) -> None:
    tensors = report.tensors or ()
    rows = [
        [t.name, t.type_name, f"{t.relative:.1e}", f"{t.allowed:.1e}", f"{t.max_abs:.2g}", t.detail or t.source]
        for t in tensors[:_TENSORS_SHOWN]
    ]  # fmt: skip
    title = f"{Path(report.candidate).name}: {len(tensors)} tensors, largest error relative to its limit first"
    columns = ["tensor", "type", "relative error", "limit", "max |Δ|", "problem or source"]
    console.table(title, columns, rows, numbers=(2, 3, 4))


def _continuations(found: tuple[Continuation, ...] | None) -> str:
    if found is None:
        return "skipped: the reference is read from disk"
    parted = [c for c in found if c.margin is not None]
    if not parted:
        n = sum(c.tokens for c in found)
        return f"equal for {n} tokens in {len(found)} texts"
    c = min(parted, key=lambda c: c.equal)
    return (
        f"{len(parted)} of {len(found)} differ, the first at token {c.equal} by {c.margin:.2g} nats"
    )
