"""Metrics of a report with their limits, for the terminal and the HTML page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from turbopilot.base.counts import count
from turbopilot.render.words import base, number, share, size, with_error
from turbopilot.verify.metrics import Metrics, Place
from turbopilot.verify.report import VerifyReport

TextOf: TypeAlias = Callable[[int], str]
"""Function that returns the text of a token."""


@dataclass(frozen=True, slots=True)
class FigureRow:
    """A metric with its limit."""

    name: str
    value: str
    limit: str = ""
    missed: bool | None = None  # None if there is no limit
    where: str = ""  # position of the largest error


def token_words(token: int, text_of: TextOf | None) -> str:
    """Return a token's text and id as words."""
    text = "" if text_of is None or token < 0 else text_of(token)
    return f"{text!r} (token {token})" if text else f"token {token}"


def place_words(place: Place, report: VerifyReport, text_of: TextOf | None) -> str:
    """Return a place as words: window, position and token."""
    names = [w.name for w in report.windows[place.window : place.window + 1]]
    name = names[0] if names else f"window {place.window + 1}"
    return f"{name}, position {place.position:,}, {token_words(place.token, text_of)}"


def figures(r: VerifyReport, text_of: TextOf | None = None) -> list[FigureRow]:
    """Return all metrics of a report; `text_of` supplies the texts of the tokens in `FigureRow.where`."""
    t = r.tokens
    equal = f"{t.texts_equal:,} of {t.texts:,}"
    rows = [
        FigureRow("texts with equal tokens", equal, "all", not t.equal),
        FigureRow("tokens compared", f"{t.ids:,}"),
    ]
    rows += [
        FigureRow(f.check, f.message, "equal", missed=True)
        for f in r.failures
        if f.check.startswith("hyperparameter")
    ]
    if r.metrics is None:
        rows.append(FigureRow("logits", "could not be compared", missed=True))
    else:
        rows += _of_logits(r.metrics, r, text_of)
    rows += _of_tensors(r)
    rows.append(FigureRow("bits per weight", number(r.bits_per_weight)))
    if r.tokens_per_second:
        rows.append(FigureRow("prefill, tokens/s", f"{r.tokens_per_second:,.0f}"))
    return rows


def _of_tensors(r: VerifyReport) -> list[FigureRow]:
    if r.tensors is None:
        return [FigureRow("rows of matrices", f"not compared: {r.rows_skipped or 'no target'}")]
    n = sum(t.wrong for t in r.tensors)
    return [
        FigureRow("wrong tensors", f"{n:,} of {len(r.tensors):,}", "0", n > 0),
        FigureRow("rows compared", f"{r.rows:,}"),
    ]


OVERVIEW = (
    "file", "type", "size", "bits/weight", "tokens/s", "mean KL", "p99 KL", "top-1", "perplexity ratio", "verdict",
)  # fmt: skip


def overview(r: VerifyReport) -> list[str]:
    """Return a report's row in the table of several reports; the columns are `OVERVIEW`."""
    m, few = r.metrics, ["", "", "", ""]
    if m is not None:
        ratio = with_error(m.perplexity_ratio)
        few = [number(m.mean_kl), number(m.p99_kl), share(m.top1), ratio]
    speed = f"{r.tokens_per_second:,.0f}" if r.tokens_per_second else ""
    verdict = ("passed" if r.limits else "no limits") if r.passed else "FAILED"
    if r.passed and r.rows_skipped:
        verdict += ", rows not compared"
    about = [base(r.candidate), r.type_name, size(r.n_bytes), f"{r.bits_per_weight:.2f}", speed]
    return [*about, *few, verdict]


def _of_logits(m: Metrics, r: VerifyReport, text_of: TextOf | None) -> list[FigureRow]:
    def at(place: Place | None) -> str:
        return place_words(place, r, text_of) if place else ""

    nmse = kl = clear = ("", None)  # type: tuple[str, bool | None]
    if limits := r.limits:
        nmse = (f"≤ {number(limits.nmse)}", not m.nmse <= limits.nmse)
        kl = (f"≤ {number(limits.mean_kl)}", not m.mean_kl <= limits.mean_kl)
        clear = (f"≥ {share(limits.clear_top1)}", not m.clear_top1 >= limits.clear_top1)
    return [
        FigureRow("positions compared", f"{m.positions:,} in {count(len(r.windows), 'window')}"),
        FigureRow("positions with NaN or infinity", f"{m.not_finite:,}", "0", m.not_finite > 0),
        FigureRow("NMSE", number(m.nmse), *nmse),
        FigureRow("mean KL, nats", number(m.mean_kl), *kl),
        FigureRow("99th percentile of KL, nats", number(m.p99_kl)),
        FigureRow("largest KL, nats", number(m.max_kl), where=at(m.max_kl_at)),
        FigureRow("largest logit difference", number(m.max_abs), where=at(m.max_abs_at)),
        FigureRow(
            "same top-1, clear positions",
            f"{share(m.clear_top1)} of {m.clear:,}",
            *clear,
            at(m.clear_miss_at),
        ),
        FigureRow("same top-1, all positions", share(m.top1)),
        FigureRow("top-1 in the candidate's top 5", share(m.top5)),
        FigureRow("mean Δp of the correct token", share(m.mean_delta_p)),
        FigureRow("RMS Δp of the correct token", share(m.rms_delta_p)),
        FigureRow("perplexity, reference", with_error(m.reference_perplexity)),
        FigureRow("perplexity, candidate", with_error(m.candidate_perplexity)),
        FigureRow("perplexity ratio (paired)", with_error(m.perplexity_ratio)),
        FigureRow("longest window, tokens", f"{r.context_tested:,} of {r.n_ctx:,}"),
    ]
