"""Verify's reports as one HTML page to keep and to pass on: no network, no script, nothing beside it.

Names and texts come from other people's checkpoints and files: the template escapes all of it, and the page's own
policy forbids scripts and loading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from turbopilot.render.svg import visible
from turbopilot.render.verify_plots import TextOf, place_words, plots, sizes, tensor_words
from turbopilot.render.words import base, count, number, share, size, with_error
from turbopilot.verify.metrics import Metrics, Place
from turbopilot.verify.report import VerifyReport


def render(reports: Sequence[VerifyReport], text_of: TextOf | None = None) -> str:
    """Return the page of one or several reports.

    Args:
        reports: of one reference; several are compared with each other first.
        text_of: the text of a token, by the reference's tokenizer; without it, tokens are shown by number.

    Raises:
        ValueError: there are no reports.
    """
    if not reports:
        raise ValueError("a page needs a report")
    environment = Environment(
        loader=PackageLoader("turbopilot.render"), autoescape=True, undefined=StrictUndefined, finalize=_finalized,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    for function in (base, count, number, repr, share, size, tensor_words, with_error):
        environment.filters[function.__name__] = function
    environment.filters["thousands"] = "{:,}".format
    environment.filters["times"] = lambda margin: (
        f"{math.exp(margin):,.3g}" if margin < 20 else "> 10⁸"
    )
    return environment.get_template("verify.html.j2").render(
        reports=reports,
        against=" and ".join(dict.fromkeys(base(r.reference) for r in reports)),
        failed=[base(r.candidate) for r in reports if not r.passed],
        kl_range=_kl_range(reports),
        sizes=sizes(reports) if len(reports) > 1 else None,
        plots=[plots(r, text_of) for r in reports],
        figures=[_figures(r, text_of) for r in reports],
        files={name: digest for r in reports for name, digest in r.reference_files.items()},
        facts=_facts(reports),
        safe=Markup,
    )


def _finalized(value: Any) -> Any:
    """Make text visible before the template escapes it."""
    return value if isinstance(value, Markup) else visible(str(value))


def _kl_range(reports: Sequence[VerifyReport]) -> str:
    """Return the smallest and the largest mean KL in words."""
    known = sorted((r.metrics.mean_kl, base(r.candidate)) for r in reports if r.metrics is not None)
    if len(known) < 2:
        return ""
    (least, best), (most, worst) = known[0], known[-1]
    return f": mean KL {number(least)} ({best}) to {number(most)} nats ({worst})"


@dataclass(frozen=True, slots=True)
class FigureRow:
    """A figure beside its limit; `missed` is None if it has none, `where` is the worst place."""

    name: str
    value: str
    limit: str = ""
    missed: bool | None = None
    where: str = ""


def _figures(r: VerifyReport, text_of: TextOf | None) -> list[FigureRow]:
    """Return every figure of a report."""
    t = r.tokens
    equal = f"{t.texts_equal:,} of {t.texts:,}"
    rows = [
        FigureRow(f"texts cut into the same tokens ({t.ids:,} in all)", equal, "all", not t.equal)
    ]
    if r.metrics is not None:
        rows += _of_logits(r.metrics, r, text_of)
    rows.append(FigureRow("bits per weight", number(r.bits_per_weight)))
    if r.tokens_per_second:
        rows.append(FigureRow("candidate's speed here, tokens/s", f"{r.tokens_per_second:,.0f}"))
    return rows


def _of_logits(m: Metrics, r: VerifyReport, text_of: TextOf | None) -> list[FigureRow]:
    def at(place: Place | None) -> str:
        return place_words(place, r, text_of) if place else ""

    nmse = kl = clear = ("", None)  # type: tuple[str, bool | None]
    if limits := r.limits:
        nmse = (f"≤ {number(limits.nmse)}", not m.nmse <= limits.nmse)
        kl = (f"≤ {number(limits.mean_kl)}", not m.mean_kl <= limits.mean_kl)
        clear = (f"≥ {share(limits.clear_top1)}", not m.clear_top1 >= limits.clear_top1)
    same = f"same first choice, of the {m.clear:,} clear ones"
    return [
        FigureRow("positions compared", f"{m.positions:,}"),
        FigureRow("positions that are not finite", f"{m.not_finite:,}", "0", m.not_finite > 0),
        FigureRow("NMSE", number(m.nmse), *nmse),
        FigureRow("mean KL, nats", number(m.mean_kl), *kl),
        FigureRow(same, share(m.clear_top1), *clear, at(m.clear_miss_at)),
        FigureRow("same first choice, of all", share(m.top1)),
        FigureRow("first choice among the candidate's first five", share(m.top5)),
        FigureRow("99th percentile of KL, nats", number(m.p99_kl)),
        FigureRow("largest KL, nats", number(m.max_kl), where=at(m.max_kl_at)),
        FigureRow("largest difference of a logit", number(m.max_abs), where=at(m.max_abs_at)),
        FigureRow("mean change of the right token's probability", share(m.mean_delta_p)),
        FigureRow("its root mean square", share(m.rms_delta_p)),
        FigureRow("perplexity, reference", with_error(m.reference_perplexity)),
        FigureRow("perplexity, candidate", with_error(m.candidate_perplexity)),
        FigureRow("perplexity ratio (paired)", with_error(m.perplexity_ratio)),
        FigureRow("longest window, tokens", f"{r.context_tested:,} of {r.n_ctx:,}"),
    ]


def _facts(reports: Sequence[VerifyReport]) -> list[tuple[str, str]]:
    """Return what the reports were made of and with; what they share is said once."""
    versions = {name: version for r in reports for name, version in r.versions.items()}
    facts = [
        *(("reference", path) for path in dict.fromkeys(r.reference for r in reports)),
        *(("candidate", r.candidate) for r in reports),
        ("architecture", ", ".join(dict.fromkeys(r.architecture for r in reports))),
        ("vocabulary", ", ".join(dict.fromkeys(f"{r.n_vocab:,} rows" for r in reports))),
        ("date", ", ".join(dict.fromkeys(r.date for r in reports))),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    for r in reports:
        s = r.seconds
        spent = (
            f"{s.reference:.1f} reference, {s.limits:.1f} limits, "
            f"{s.candidate:.1f} candidate, {s.metrics:.1f} figures"
        )
        facts.append((f"seconds, {base(r.candidate)}", spent))
    return [fact for fact in facts if fact[1]]
