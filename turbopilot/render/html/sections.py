"""The words and tables about one candidate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from turbopilot.render.html.parts import (
    Markup,
    base,
    count,
    element,
    joined,
    number,
    section,
    share,
    size,
    table,
    with_error,
)
from turbopilot.render.html.plots import TextOf, place_words, plots, tensor_words
from turbopilot.verify.criteria import Limits
from turbopilot.verify.metrics import Metrics, Place
from turbopilot.verify.report import Continuation, Report

_KINDS: Final = {
    "code": "code",
    "context": "whole context",
    "fim": "with a hole",
    "greedy": "continuation",
}


def verdict(r: Report) -> Markup:
    """The outcome in a sentence or two, with the few figures that matter."""
    about = f"{base(r.candidate)} ({r.type_name}, {size(r.n_bytes)})"
    against = f"{base(r.reference)}"
    css = "good" if r.passed else "bad"
    word = element("strong", "Passed." if r.passed else "Failed.")
    if r.metrics is None:
        rest = f" {about} against {against}: the logits could not be compared."
        return element("p", word, rest, css=f"verdict {css}")
    m = r.metrics
    missed = f"; {count(len(r.failures), 'check')} failed" if r.failures else ""
    bounds = "" if r.limits else " There are no limits to judge these by."
    rest = (
        f" {about} against {against} at {count(m.positions, 'position')}{missed}. "
        f"Mean KL {number(m.mean_kl)} nats, the same first choice at {share(m.top1)}, "
        f"perplexity ratio {with_error(m.perplexity_ratio)}.{bounds}"
    )
    return element("p", word, rest, css=f"verdict {css}")


def candidate(r: Report, level: int, text_of: TextOf | None) -> Markup:
    """Everything about one candidate, its headings at a level and below."""
    parts = [
        section("What failed", level, _listed([f.message for f in r.failures]) if r.failures else ""),
        section("What it comes from", level, _listed([f.message for f in r.findings]) if r.findings else ""),
        section("Every figure", level, _figures(r, text_of), _origin(r)),
        section("By kind of window", level, _by_kind(r)),
        section("What both write", level, _continuations(r)),
        section("Plots", level, element("div", joined(drawn), css="plots") if (drawn := plots(r, text_of)) else ""),
        section("Tensors", level, _tensors(r)),
        section("Windows", level, _windows(r)),
    ]  # fmt: skip
    return joined([p for p in parts if p])


def _listed(lines: list[str]) -> Markup:
    return element("ul", *(element("li", line) for line in lines), css="plain")


def _figures(r: Report, text_of: TextOf | None) -> Markup:
    t, m = r.tokens, r.metrics
    alike = f"{t.texts_equal:,} of {t.texts:,}"
    rows = [_row(f"texts cut into the same tokens ({t.ids:,} in all)", alike, "all", not t.equal)]

    def at(place: Place | None) -> str:
        return place_words(place, r, text_of) if place else ""

    if m is not None:
        rows += [*_judged(m, r.limits, at(m.clear_miss_at)), *_others(m, at)]
        rows.append(_row("longest window, tokens", f"{r.context_tested:,} of {r.n_ctx:,}"))
    rows.append(_row("bits per weight", number(r.bits_per_weight)))
    if r.tokens_per_second:
        rows.append(_row("candidate's speed here, tokens/s", f"{r.tokens_per_second:,.0f}"))
    head = ("figure", "value", "limit", "verdict", "where")
    return table("every figure beside its limit", head, rows, numbers={1, 2})


def _row(
    name: str, value: str, limit: str = "", missed: bool | None = None, where: str = ""
) -> tuple[str, ...]:
    state = "missed" if missed else "within"
    told = "" if missed is None else element("strong", state, css="bad" if missed else "good")
    return (name, value, limit, told, element("span", where, css="soft") if where else "")


def _judged(m: Metrics, limits: Limits | None, miss: str) -> list[tuple[str, ...]]:
    """The figures that decide."""
    rows = [
        _row("positions compared", f"{m.positions:,}"),
        _row("positions that are not finite", f"{m.not_finite:,}", "0", m.not_finite > 0),
    ]
    clear = f"same first choice, of the {m.clear:,} clear ones"
    if limits is None:
        return [
            *rows,
            _row("NMSE", number(m.nmse)),
            _row("mean KL, nats", number(m.mean_kl)),
            _row(clear, share(m.clear_top1), where=miss),
        ]
    nmse, kl = f"≤ {number(limits.nmse)}", f"≤ {number(limits.mean_kl)}"
    top = f"≥ {share(limits.clear_top1)}"
    return [
        *rows,
        _row("NMSE", number(m.nmse), nmse, not m.nmse <= limits.nmse),
        _row("mean KL, nats", number(m.mean_kl), kl, not m.mean_kl <= limits.mean_kl),
        _row(clear, share(m.clear_top1), top, not m.clear_top1 >= limits.clear_top1, miss),
    ]


def _others(m: Metrics, at: Callable[[Place | None], str]) -> list[tuple[str, ...]]:
    """Those that only tell."""
    return [
        _row("same first choice, of all", share(m.top1)),
        _row("first choice among the candidate's first five", share(m.top5)),
        _row("99th percentile of KL, nats", number(m.p99_kl)),
        _row("largest KL, nats", number(m.max_kl), where=at(m.max_kl_at)),
        _row("largest difference of a logit", number(m.max_abs), where=at(m.max_abs_at)),
        _row("mean change of the right token's probability", share(m.mean_delta_p)),
        _row("its root mean square", share(m.rms_delta_p)),
        _row("perplexity, reference", with_error(m.reference_perplexity)),
        _row("perplexity, candidate", with_error(m.candidate_perplexity)),
        _row("perplexity ratio (paired)", with_error(m.perplexity_ratio)),
    ]


def _origin(r: Report) -> Markup:
    if r.limits is None:
        return element("p", "There are no limits for this file.", css="soft")
    return element("p", f"Limits of {r.type_name}: {r.limits.origin}.", css="soft")


def _by_kind(r: Report) -> Markup:
    rows = []
    for kind, m in r.by_kind.items():
        windows = sum(w.kind == kind for w in r.windows)
        rows.append((
            _KINDS.get(kind, kind), f"{windows:,}", f"{m.positions:,}", number(m.nmse), number(m.mean_kl),
            number(m.p99_kl), number(m.max_kl), share(m.top1), share(m.top5), with_error(m.perplexity_ratio),
        ))  # fmt: skip
    head = (
        "kind",
        "windows",
        "positions",
        "NMSE",
        "mean KL",
        "p99 KL",
        "max KL",
        "top-1",
        "top-5",
        "perplexity ratio",
    )
    return table("figures by kind of window", head, rows, numbers=set(range(1, 10)))


def _continuations(r: Report) -> Markup:
    rows = [_continuation(c) for c in r.continuations or ()]
    head = ("after the beginning of", "the same", "reference", "candidate", "margin, nats")
    drawn = table("continuations", head, rows, numbers={1, 4})
    if not drawn:
        return drawn
    margin = (
        "Always the first choice. The margin is how much likelier the reference finds its own choice where they part: "
        "near 0, both were as good."
    )
    return joined([drawn, element("p", margin, css="soft")])


def _continuation(c: Continuation) -> tuple[str, ...]:
    if c.margin is None:
        return (c.after, f"all {c.tokens:,}", "", "", "")
    writes = (element("code", repr(text)) for text in (c.reference_text, c.candidate_text))
    times = f"{math.exp(c.margin):,.3g}" if c.margin < 20 else "> 10⁸"
    return (c.after, f"{c.equal:,} of {c.tokens:,}", *writes, f"{number(c.margin)} ({times} times)")


def _tensors(r: Report) -> Markup:
    rows = []
    for t in r.tensors or ():
        state = element("strong", t.cause or "wrong", css="bad") if t.wrong else "within"
        shape = " × ".join(map(str, t.shape))
        figures = (tensor_words(t), number(t.allowed), number(t.max_abs))
        rows.append((t.name, t.type_name, shape, *figures, state, t.detail, t.source))
    if not rows:
        return Markup("")
    head = (
        "tensor",
        "type",
        "shape",
        "error",
        "may have",
        "largest",
        "verdict",
        "what is wrong",
        "made of",
    )
    whole = table("tensors", head, rows, numbers={2, 3, 4, 5})
    title = element(
        "summary", f"All {count(len(rows), 'tensor')}, the worst beside its allowance first"
    )
    return element("details", title, whole)


def _windows(r: Report) -> Markup:
    rows = [
        (w.name, _KINDS.get(w.kind, w.kind), f"{len(w.ids):,}", f"{len(w.measured):,}")
        for w in r.windows
    ]
    if not rows:
        return Markup("")
    whole = table("windows", ("window", "kind", "tokens", "compared"), rows, numbers={2, 3})
    return element("details", element("summary", f"All {count(len(rows), 'window')}"), whole)
