"""`turbopilot verify`: reports as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.base.kl_divergence import Perplexity
    from turbopilot.verify import VerifyReport
    from turbopilot.verify.metrics import Metrics
    from turbopilot.verify.report import Continuation

_TENSORS_SHOWN = 15


def show(reports: Sequence[VerifyReport]) -> None:
    """Print one report in full, or several side by side."""
    if len(reports) == 1:
        _in_full(reports[0])
    else:
        _side_by_side(reports)
    for report in reports:
        if report.tensors is not None:
            _tensors(report)


def _in_full(report: VerifyReport) -> None:
    title = f"{report.candidate}: {report.architecture}, judged as {report.type_name}"
    title += f" ({report.bits_per_weight:.2f} bits/weight), against {report.reference}"
    columns = ["", "measured", "limit", "verdict"]
    console.table(title, columns, _rows(report), numbers=(1, 2))
    limits = report.limits
    if limits:
        console.result(f"limits: {limits.origin}")
    elif report.metrics:
        name = Path(report.reference).name
        console.result(
            f"no limits: they are made by noise in a checkpoint's weights, and {name} is a GGUF"
        )
    if report.passed:
        versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
        console.result(f"{'passed' if limits else 'nothing failed'} ({versions})")


def _rows(report: VerifyReport) -> list[list[str]]:
    """Return every figure: name, measured, limit, verdict."""
    failed = {failure.check for failure in report.failures}

    def verdict(check: str) -> str:
        return "FAILED" if check in failed else "ok"

    t, m, limits = report.tokens, report.metrics, report.limits
    equal = f"{t.texts_equal} of {t.texts} texts, {t.ids:,} ids"
    rows = [["token ids equal", equal, "all", verdict("tokens")]]
    rows += [
        [f.check, f.message, "equal", "FAILED"]
        for f in report.failures
        if f.check.startswith("hyperparameter")
    ]
    if m is None:
        return [*rows, ["logits", "not comparable", "", verdict("vocabulary")]]
    nmse, kl, clear = ["none", ""], ["none", ""], ["none", ""]
    if limits:
        nmse = [f"≤ {limits.nmse:.2g}", verdict("nmse")]
        kl = [f"≤ {limits.mean_kl:.2g}", verdict("mean_kl")]
        clear = [f"≥ {limits.clear_top1:.2%}", verdict("clear_top1")]
    kinds = report.by_kind.items() if len(report.by_kind) > 1 else ()
    return [
        *rows,
        ["positions", _positions(report, m), "", ""],
        ["finite logits", f"{m.positions - m.not_finite:,}", "all", verdict("finite")],
        ["NMSE", f"{m.nmse:.2e}", *nmse],
        ["KL, mean (nats)", f"{m.mean_kl:.2e}", *kl],
        ["KL, 99 % and max", f"{m.p99_kl:.2e}, {m.max_kl:.2e}", "", ""],
        ["max |Δlogit|", f"{m.max_abs:.3g}", "", ""],
        ["Δp of the right token", f"{m.mean_delta_p:+.3%} ± {m.rms_delta_p:.3%} rms", "", ""],
        ["top-1, clear", f"{m.clear_top1:.2%} of {m.clear:,}", *clear],
        ["top-1, top-5", f"{m.top1:.2%}, {m.top5:.2%}", "", ""],
        ["perplexity", _perplexities(m), "", ""],
        *([f"  {kind}", _of_kind(k), "", ""] for kind, k in kinds),
        ["greedy continuation", _continuations(report.continuations), "", ""],
    ]


def _side_by_side(reports: Sequence[VerifyReport]) -> None:
    rows = []
    for r in reports:
        speed, figures = "", ["", "", "", ""]
        if m := r.metrics:
            speed, ratio = f"{r.tokens_per_second:,.0f}", m.perplexity_ratio
            perplexity = f"{ratio.value:.4f} ± {ratio.error:.4f}"
            figures = [f"{m.mean_kl:.2e}", f"{m.p99_kl:.2e}", f"{m.top1:.2%}", perplexity]
        verdict = ("passed" if r.limits else "no limits") if r.passed else "FAILED"
        name, size = Path(r.candidate).name, console.size(r.n_bytes)
        rows.append([name, r.type_name, size, speed, *figures, verdict])
    columns = (
        "file",
        "type",
        "size",
        "tokens/s",
        "mean KL",
        "99 % KL",
        "top-1",
        "perplexity",
        "verdict",
    )
    console.table(f"against {reports[0].reference}", columns, rows, numbers=range(2, 8))
    if m := next((r.metrics for r in reports if r.metrics), None):
        console.result(
            f"the reference's perplexity: {_with_error(m.reference_perplexity)}; the files' as a ratio to it. "
            f"tokens/s: of reading, on this machine, with half of its cores"
        )


def _tensors(report: VerifyReport) -> None:
    tensors = report.tensors or ()
    rows = [
        [t.name, t.type_name, f"{t.relative:.1e}", f"{t.allowed:.1e}", f"{t.max_abs:.2g}", t.detail or t.source]
        for t in tensors[:_TENSORS_SHOWN]
    ]  # fmt: skip
    title = f"{Path(report.candidate).name}: {len(tensors)} tensors, the furthest off first"
    columns = ["tensor", "type", "relative error", "its type may", "max |Δ|", "what it is"]
    console.table(title, columns, rows, numbers=(2, 3, 4))


def _positions(report: VerifyReport, m: Metrics) -> str:
    text = f"{m.positions:,} in {len(report.windows)} windows, up to position {report.context_tested - 1:,}"
    short = report.context_tested < report.n_ctx
    return f"{text} of {report.n_ctx - 1:,} (--full tests all)" if short else text


def _of_kind(m: Metrics) -> str:
    return f"KL {m.mean_kl:.2e}, top-1 {m.top1:.2%}, {m.positions:,} positions"


def _perplexities(m: Metrics) -> str:
    return (
        f"{_with_error(m.reference_perplexity)} → {_with_error(m.candidate_perplexity)}, "
        f"× {m.perplexity_ratio.value:.4f} ± {m.perplexity_ratio.error:.4f}"
    )


def _with_error(p: Perplexity) -> str:
    return f"{p.value:.5g} ± {p.error:.2g}"


def _continuations(found: tuple[Continuation, ...] | None) -> str:
    if found is None:
        return "not tried: the reference is read from disk"
    parted = [c for c in found if c.margin is not None]
    if not parted:
        n = sum(c.tokens for c in found)
        return f"equal: {n} tokens in {len(found)} texts"
    c = min(parted, key=lambda c: c.equal)
    return (
        f"{len(parted)} of {len(found)} part, the first at token {c.equal} by {c.margin:.2g} nats"
    )
