"""Reports as one page to keep and to pass on: it needs no network, no script and nothing beside it.

Names and texts come from checkpoints and files of others: all of it is escaped, and the page's own policy forbids
scripts and loading.
"""

from __future__ import annotations

from collections.abc import Sequence

from turbopilot.render.html.parts import (
    Markup,
    base,
    count,
    element,
    figure,
    joined,
    number,
    section,
    share,
    size,
    table,
    with_error,
)
from turbopilot.render.html.plots import TextOf
from turbopilot.render.html.sections import candidate, verdict
from turbopilot.render.html.style import STYLE
from turbopilot.render.scale import Scale
from turbopilot.render.svg import Labels, Spot, plot
from turbopilot.verify.report import Report

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(reports: Sequence[Report], text_of: TextOf | None = None) -> str:
    """The page of one or several reports.

    Args:
        reports: of one reference; several are compared with each other first.
        text_of: the text of a token, by the reference's tokenizer; without it, tokens are shown by number.

    Raises:
        ValueError: there are no reports.
    """
    if not reports:
        raise ValueError("a page needs a report")
    against = " and ".join(dict.fromkeys(base(r.reference) for r in reports))
    if len(reports) == 1:
        title = f"{base(reports[0].candidate)} against {against}"
        body = [element("h1", title), verdict(reports[0]), candidate(reports[0], 2, text_of)]
    else:
        title = f"{len(reports)} files against {against}"
        body = [element("h1", title), _outcome(reports), _overview(reports), _sizes(reports)]
        body += [_folded(i, r, text_of) for i, r in enumerate(reports)]
    return _page(title, joined([*body, _provenance(reports)]))


def _page(title: str, body: Markup) -> str:
    head = (
        '<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"{element('title', title)}\n<style>{STYLE}</style>"
    )
    main = element("main", body)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{main}\n</body>\n</html>\n'


def _outcome(reports: Sequence[Report]) -> Markup:
    failed = [base(r.candidate) for r in reports if not r.passed]
    if not failed:
        words = f" All {count(len(reports), 'file')} are within what their types may lose{_range(reports)}."
        return element("p", element("strong", "Passed."), words, css="verdict good")
    words = f" {len(failed)} of {count(len(reports), 'file')} failed ({', '.join(failed)}){_range(reports)}."
    return element("p", element("strong", "Failed."), words, css="verdict bad")


def _range(reports: Sequence[Report]) -> str:
    """The least and the largest mean KL, in words."""
    known = sorted((r.metrics.mean_kl, base(r.candidate)) for r in reports if r.metrics is not None)
    if len(known) < 2:
        return ""
    (least, best), (most, worst) = known[0], known[-1]
    return f": mean KL {number(least)} ({best}) to {number(most)} nats ({worst})"


def _overview(reports: Sequence[Report]) -> Markup:
    rows = []
    for i, r in enumerate(reports):
        m, css = r.metrics, "good" if r.passed else "bad"
        figures = (
            ("",) * 4
            if m is None
            else (
                number(m.mean_kl),
                number(m.p99_kl),
                share(m.top1),
                with_error(m.perplexity_ratio),
            )
        )
        rows.append((
            element("a", base(r.candidate), attributes=f'href="#file-{i + 1}"'),
            r.type_name, size(r.n_bytes), f"{r.bits_per_weight:.2f}",
            f"{r.tokens_per_second:,.0f}" if r.tokens_per_second else "", *figures,
            element("strong", "passed" if r.passed else "failed", css=css),
        ))  # fmt: skip
    head = (
        "file", "type", "size", "bits/weight", "tokens/s", "mean KL", "p99 KL", "top-1", "perplexity ratio", "verdict",
    )  # fmt: skip
    return section("Compared", 2, table("the files", head, rows, numbers=set(range(2, 9))))


def _sizes(reports: Sequence[Report]) -> Markup:
    known = [(r, r.metrics.mean_kl) for r in reports if r.metrics is not None]
    if not any(kl > 0 for _, kl in known):
        return Markup("")
    most = max(r.n_bytes for r, _ in known)
    unit, name = next(
        (u for u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if most >= u[0]), (1.0, "B")
    )
    x, y = [r.n_bytes / unit for r, _ in known], [kl for _, kl in known]
    spots = [
        Spot(
            a, b, "k1" if r.passed else "bad",
            f"{base(r.candidate)}: {size(r.n_bytes)}, mean KL {number(b)}, {'passed' if r.passed else 'failed'}",
        )
        for a, b, (r, _) in zip(x, y, known, strict=True)
    ]  # fmt: skip
    labels = Labels(x, y, [_short(base(r.candidate)) for r, _ in known])
    title = "What each size costs"
    scales = Scale.of([0, *x]), Scale.of(y, log=True, decades=15.0)
    drawing = plot(
        title, (f"size, {name}", scales[0]), ("mean KL, nats", scales[1]), [*spots, labels]
    )
    return element("div", figure(title, drawing, "Lower and further left is better."), css="alone")


def _short(name: str) -> str:
    stem = name.removesuffix(".gguf")
    return stem if len(stem) <= 22 else f"{stem[:8]}…{stem[-13:]}"


def _folded(i: int, r: Report, text_of: TextOf | None) -> Markup:
    title = element("h2", f"{base(r.candidate)}: {'passed' if r.passed else 'failed'}")
    anchor = f'id="file-{i + 1}"' + ("" if r.passed else " open")
    return element(
        "details", element("summary", title), verdict(r), candidate(r, 3, text_of), css="file", attributes=anchor,
    )  # fmt: skip


def _provenance(reports: Sequence[Report]) -> Markup:
    """What all of it was made of and with; what the reports share is said once."""
    files = {name: digest for r in reports for name, digest in r.reference_files.items()}
    digests = [
        (f"SHA-256 of {name}", element("span", digest, css="digest"))
        for name, digest in files.items()
    ]
    versions = {name: version for r in reports for name, version in r.versions.items()}
    spent = [
        f"{s.reference:.1f} reference, {s.limits:.1f} limits, {s.candidate:.1f} candidate, {s.metrics:.1f} figures"
        for s in (r.seconds for r in reports)
    ]
    facts = [
        *(("reference", path) for path in dict.fromkeys(r.reference for r in reports)),
        *(("candidate", r.candidate) for r in reports),
        ("architecture", ", ".join(dict.fromkeys(r.architecture for r in reports))),
        ("vocabulary", ", ".join(dict.fromkeys(f"{r.n_vocab:,} rows" for r in reports))),
        ("date", ", ".join(dict.fromkeys(r.date for r in reports))),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        *(
            (f"seconds, {base(r.candidate)}", words)
            for r, words in zip(reports, spent, strict=True)
        ),
    ]
    content = [
        table("what it was made of and with", ("", ""), [f for f in facts if f[1]]),
        table("files of the reference", ("", ""), digests),
    ]
    return element("footer", section("Where this comes from", 2, *content))
