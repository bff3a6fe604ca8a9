"""Verification reports as one self-contained HTML page, without scripts or external resources.

Names and texts come from untrusted checkpoints and files. The template escapes all of them, and the page's content
security policy forbids scripts and loading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from turbopilot.base.counts import count
from turbopilot.render.svg import visible
from turbopilot.render.verify_figures import OVERVIEW, TextOf, figures, overview
from turbopilot.render.verify_plots import plots, sizes, tensor_words
from turbopilot.render.words import base, number, share, size, with_error
from turbopilot.verify.report import VerifyReport


def render(reports: Sequence[VerifyReport], text_of: TextOf | None = None) -> str:
    """Return the HTML page of reports with the same reference; several reports get an overview first.

    `text_of` returns the text of a token; without it, tokens are shown as ids.
    """
    if not reports:
        raise ValueError("the page needs at least one report")
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
    page = environment.get_template("verify.html.j2").render(
        reports=reports,
        against=" and ".join(dict.fromkeys(base(r.reference) for r in reports)),
        failed=[base(r.candidate) for r in reports if not r.passed],
        kl_range=_kl_range(reports),
        sizes=sizes(reports) if len(reports) > 1 else None,
        columns=OVERVIEW,
        rows=[overview(r) for r in reports],
        plots=[plots(r, text_of) for r in reports],
        figures=[figures(r, text_of) for r in reports],
        files={name: digest for r in reports for name, digest in r.reference_files.items()},
        facts=_facts(reports),
        safe=Markup,
    )
    return f"{page.strip()}\n"


def _finalized(value: Any) -> Any:
    """Make unprintable characters visible before the template escapes the text."""
    return value if isinstance(value, Markup) else visible(str(value))


def _kl_range(reports: Sequence[VerifyReport]) -> str:
    """Return the smallest and the largest mean KL as words; "" for fewer than two."""
    known = sorted((r.metrics.mean_kl, base(r.candidate)) for r in reports if r.metrics is not None)
    if len(known) < 2:
        return ""
    (least, best), (most, worst) = known[0], known[-1]
    return f": mean KL {number(least)} ({best}) to {number(most)} nats ({worst})"


def _facts(reports: Sequence[VerifyReport]) -> list[tuple[str, str]]:
    """Return the origin and versions of the reports as labels and texts; shared values are listed once."""
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
            f"{s.candidate:.1f} candidate, {s.metrics:.1f} metrics"
        )
        facts.append((f"seconds, {base(r.candidate)}", spent))
    return [fact for fact in facts if fact[1]]
