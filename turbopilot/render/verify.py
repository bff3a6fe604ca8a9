"""Words for `turbopilot verify`: reports as tables, and as a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.base.kl_divergence import Perplexity
    from turbopilot.formats.gguf.certificate import Certificate, Digests
    from turbopilot.verify import Report
    from turbopilot.verify.metrics import Metrics
    from turbopilot.verify.report import Continuation

_TENSORS_SHOWN = 15


def show(reports: Sequence[Report]) -> None:
    """One report in full, or several side by side."""
    if len(reports) == 1:
        _in_full(reports[0])
    else:
        _side_by_side(reports)
    for report in reports:
        if report.tensors is not None:
            _tensors(report)


def certificate(report: Report, digests: Digests, reference: str) -> Certificate:
    """What is to be remembered of a report. It has logits and limits: it passed against a checkpoint."""
    from turbopilot.formats.gguf.certificate import Certificate

    m, limits = report.metrics, report.limits
    if m is None or limits is None:
        raise AssertionError("only a comparison with limits is signed")
    return Certificate(
        passed=report.passed,
        reference=reference,
        reference_files=tuple(
            f"{digest}  {name}" for name, digest in report.reference_files.items()
        ),
        type_name=report.type_name,
        positions=m.positions,
        max_context=report.context_tested,
        mean_kl=float(m.mean_kl),
        max_kl=float(m.max_kl),
        top1=float(m.top1),
        nmse=float(m.nmse),
        reference_perplexity=m.reference_perplexity.value,
        candidate_perplexity=m.candidate_perplexity.value,
        limits=f"NMSE ≤ {limits.nmse:.2g}, mean KL ≤ {limits.mean_kl:.2g}, clear top-1 ≥ {limits.clear_top1:.2%} "
        f"({limits.origin})",
        versions=tuple(f"{name} {version}" for name, version in report.versions.items()),
        date=report.date,
        tensors_sha256=digests.tensors,
        metadata_sha256=digests.metadata,
    )


def _in_full(report: Report) -> None:
    failed = {failure.check for failure in report.failures}

    def verdict(check: str) -> str:
        return "FAILED" if check in failed else "ok"

    tokens, limits, m = report.tokens, report.limits, report.metrics
    equal = f"{tokens.texts_equal} of {tokens.texts} texts"
    rows = [["token ids equal", f"{equal}, {tokens.ids:,} ids", "all", verdict("tokens")]]
    rows += [
        [f.check, f.message, "equal", "FAILED"]
        for f in report.failures
        if f.check.startswith("hyperparameter")
    ]
    if m is None:
        rows.append(["logits", "not comparable", "", verdict("vocabulary")])
    else:
        at_most = [f"≤ {x:.2g}" for x in (limits.nmse, limits.mean_kl)] if limits else ["none"] * 2
        least = f"≥ {limits.clear_top1:.2%}" if limits else "none"
        rows += [
            ["positions", _positions(report, m), "", ""],
            ["finite logits", f"{m.positions - m.not_finite:,}", "all", verdict("finite")],
            ["NMSE", f"{m.nmse:.2e}", at_most[0], verdict("nmse") if limits else ""],
            [
                "KL, mean (nats)",
                f"{m.mean_kl:.2e}",
                at_most[1],
                verdict("mean_kl") if limits else "",
            ],
            ["KL, 99 % and max", f"{m.p99_kl:.2e}, {m.max_kl:.2e}", "", ""],
            ["max |Δlogit|", f"{m.max_abs:.3g}", "", ""],
            ["Δp of the right token", f"{m.mean_delta_p:+.3%} ± {m.rms_delta_p:.3%} rms", "", ""],
            [
                "top-1, clear",
                f"{m.clear_top1:.2%} of {m.clear:,}",
                least,
                verdict("clear_top1") if limits else "",
            ],
            ["top-1, top-5", f"{m.top1:.2%}, {m.top5:.2%}", "", ""],
            ["perplexity", _perplexities(m), "", ""],
        ]
        rows += [
            [
                f"  {kind}",
                f"KL {k.mean_kl:.2e}, top-1 {k.top1:.2%}, {k.positions:,} positions",
                "",
                "",
            ]
            for kind, k in report.by_kind.items()
            if len(report.by_kind) > 1
        ]
        rows.append(["greedy continuation", _continuations(report.continuations), "", ""])
    title = f"{report.candidate}: {report.architecture}, judged as {report.type_name}"
    title += f" ({report.bits_per_weight:.2f} bits/weight), against {report.reference}"
    console.table(title, ["", "measured", "limit", "verdict"], rows, numbers=(1, 2))
    if limits:
        console.result(f"limits: {limits.origin}")
    elif m:
        console.result(
            f"no limits: they are made by noise in a checkpoint's weights, and {Path(report.reference).name} is a GGUF"
        )
    if report.passed:
        versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
        console.result(f"{'passed' if limits else 'nothing failed'} ({versions})")


def _side_by_side(reports: Sequence[Report]) -> None:
    rows = [
        [
            Path(r.candidate).name,
            r.type_name,
            console.size(r.n_bytes),
            f"{r.tokens_per_second:,.0f}" if r.metrics else "",
            *(_few(r.metrics) if r.metrics else ["", "", "", ""]),
            ("passed" if r.limits else "no limits") if r.passed else "FAILED",
        ]
        for r in reports
    ]
    columns = [
        "file",
        "type",
        "size",
        "tokens/s",
        "mean KL",
        "99 % KL",
        "top-1",
        "perplexity",
        "verdict",
    ]
    console.table(f"against {reports[0].reference}", columns, rows, numbers=(2, 3, 4, 5, 6, 7))
    if m := next((r.metrics for r in reports if r.metrics), None):
        console.result(
            f"the reference's perplexity: {_with_error(m.reference_perplexity)}; the files' as a ratio to it. "
            f"tokens/s: of reading, on this machine, with half of its cores"
        )


def _few(m: Metrics) -> list[str]:
    ratio = m.perplexity_ratio
    return [
        f"{m.mean_kl:.2e}", f"{m.p99_kl:.2e}", f"{m.top1:.2%}", f"{ratio.value:.4f} ± {ratio.error:.4f}",
    ]  # fmt: skip


def _tensors(report: Report) -> None:
    tensors = report.tensors or ()
    rows = [
        [
            t.name,
            t.type_name,
            f"{t.relative:.1e}",
            f"{t.allowed:.1e}",
            f"{t.max_abs:.2g}",
            t.detail or t.source,
        ]
        for t in tensors[:_TENSORS_SHOWN]
    ]
    title = f"{Path(report.candidate).name}: {len(tensors)} tensors, the furthest off first"
    columns = ["tensor", "type", "relative error", "its type may", "max |Δ|", "what it is"]
    console.table(title, columns, rows, numbers=(2, 3, 4))


def _positions(report: Report, m: Metrics) -> str:
    text = f"{m.positions:,} in {len(report.windows)} windows, up to position {report.context_tested - 1:,}"
    short = report.context_tested < report.n_ctx
    return f"{text} of {report.n_ctx - 1:,} (--full tests all)" if short else text


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
