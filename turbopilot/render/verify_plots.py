"""Plots of the HTML page of a verification report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from turbopilot.base.counts import count
from turbopilot.base.kl_divergence import Array, Floats
from turbopilot.render.scale import Scale, byte_unit
from turbopilot.render.svg import Bar, Cloud, Labels, Line, Mark, Spot, bars, plot
from turbopilot.render.verify_figures import TextOf, place_words, token_words
from turbopilot.render.words import base, number, share, size
from turbopilot.verify.metrics import Place, Positions
from turbopilot.verify.report import VerifyReport
from turbopilot.verify.tensor_errors import TensorError

MOST_POINTS: Final = 1500
"""Maximum number of points in a plot; more would enlarge the page without showing more."""

_TENSORS: Final = 30  # tensors drawn; the others are only listed
_WORST: Final = 20  # positions with a tooltip
_MEDIANS: Final = 64  # points of a running median
_SAMPLES: Final = (
    ("the reference's top-1 token", "k1"), ("the next token of the text", "k2"), ("another token", "k3"),
)  # fmt: skip
_TOKEN_TYPES: Final = (
    ("whitespace", re.compile(r"\s+")),
    ("words", re.compile(r"\s*[^\W\d]\w*\s*")),
    ("numbers", re.compile(r"\s*\d[\w.]*\s*")),
    ("punctuation", re.compile(r"\s*[^\w\s\ufffd](?:[^\w\ufffd]*)")),
    ("other", re.compile(r".*", re.DOTALL)),  # mixtures, special tokens, parts of a character
)


@dataclass(frozen=True, slots=True)
class PlotFigure:
    """Plot as SVG ("" for none) with its title and caption."""

    title: str
    drawing: str
    caption: str


def token_type(text: str) -> str:
    """Return the type of a token's text: whitespace, words, numbers, punctuation or other."""
    return next(name for name, pattern in _TOKEN_TYPES if pattern.fullmatch(text))


def tensor_words(t: TensorError) -> str:
    """Return a tensor's relative error as text."""
    return number(t.relative) if math.isfinite(t.relative) else "none measured"


def plots(report: VerifyReport, text_of: TextOf | None) -> list[PlotFigure]:
    """Return all plots that the report has data for."""
    found: list[PlotFigure] = []
    p = report.positions
    if p is not None and len(p.window):
        found += _kl_plots(report, p, text_of)
        found += _scatter(p)
        if text_of is not None:
            found += _by_token_type(p, text_of)
    if report.tensors:
        found.append(_by_tensor(report.tensors))
    return found


def sizes(reports: Sequence[VerifyReport]) -> PlotFigure | None:
    """Return the plot of several files by size and mean KL; None if no KL is above 0."""
    known = [(r, r.metrics.mean_kl) for r in reports if r.metrics is not None]
    if not any(kl > 0 for _, kl in known):
        return None
    unit, name = byte_unit(max(r.n_bytes for r, _ in known))
    x, y = [r.n_bytes / unit for r, _ in known], [kl for _, kl in known]
    spots: list[Mark] = []
    for a, b, (r, _) in zip(x, y, known, strict=True):
        css, state = ("k1", "passed") if r.passed else ("bad", "failed")
        words = f"{base(r.candidate)}: {size(r.n_bytes)}, mean KL {number(b)}, {state}"
        spots.append(Spot(a, b, css, words))
    stems = [base(r.candidate).removesuffix(".gguf") for r, _ in known]
    names = [stem if len(stem) <= 22 else f"{stem[:8]}…{stem[-13:]}" for stem in stems]
    across = (f"size, {name}", Scale.of([0, *x]))
    up = ("mean KL, nats", Scale.of(y, log=True, decades=15.0))
    title = "Mean KL by file size"
    drawing = plot(title, across, up, [*spots, Labels(x, y, names)])
    return PlotFigure(title, drawing, "Lower and further left is better.")


def thinned(n: int, most: int) -> Array:
    """Return at most `most` of the indices 0 … n-1, evenly spaced, including the first and the last."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def running_median(x: Array, y: Floats) -> tuple[Floats, Floats]:
    """Return the medians of x and of y in groups of neighbours, sorted by x."""
    order = np.argsort(x, kind="stable")
    runs = [r for r in np.array_split(order, max(1, min(_MEDIANS, len(order) // 8))) if len(r)]
    across, up = ([np.median(values[run]) for run in runs] for values in (x, y))
    return np.asarray(across), np.asarray(up)


def _kl_plots(report: VerifyReport, p: Positions, text_of: TextOf | None) -> list[PlotFigure]:
    title = "KL by position"
    known = p.kl[p.finite & np.isfinite(p.kl)]
    if not (known > 0).any():
        exact = f"The KL divergence is 0 at all of {count(len(known), 'position')}."
        nothing = exact if len(known) else "The candidate's logits are not finite at any position."
        return [PlotFigure(title, "", nothing)]
    kinds = dict(enumerate(w.kind for w in report.windows))
    long = np.asarray([kinds.get(w) == "context" for w in p.window.tolist()])
    scale = Scale.of(known, log=True)
    groups = (
        (f"{title}, code and prompt windows", ~long),
        (f"{title}, full-context window", long),
    )
    return [
        _kl_plot(name, p.where(mask), scale, report, text_of) for name, mask in groups if mask.any()
    ]


def _kl_plot(
    title: str, p: Positions, scale: Scale, report: VerifyReport, text_of: TextOf | None
) -> PlotFigure:
    good = p.finite & np.isfinite(p.kl)
    q, bad = p.where(good), p.where(~good)
    end = int(p.position.max(initial=1))
    kept = thinned(len(q.kl), MOST_POINTS)
    marks: list[Mark] = [Cloud(q.position[kept], q.kl[kept], "k1", "one position")]
    if len(q.kl) > 1:
        marks.append(Line(*running_median(q.position, q.kl), "k2", "running median"))
    if report.limits is not None and scale.low <= report.limits.mean_kl <= scale.high:
        marks.append(Line([0, end], [report.limits.mean_kl] * 2, "thin", "limit of the mean"))
    largest = np.argsort(-q.kl, kind="stable")[:_WORST].tolist()
    for n, i in enumerate(largest):
        place = Place(int(q.window[i]), int(q.position[i]), int(q.choice[i]))
        kl, other = float(q.kl[i]), token_words(int(q.other[i]), text_of)
        where = place_words(place, report, text_of)
        words = f"KL {number(kl)}: {where}; the candidate's top-1: {other}"
        name = "" if n else f"{len(largest)} largest"
        marks.append(Spot(float(q.position[i]), kl, "k4", words, name))
    if len(bad.window):
        at = bad.position[thinned(len(bad.position), MOST_POINTS)]
        marks.append(Cloud(at, np.full(len(at), scale.high), "bad", "not finite"))
    caption = count(len(q.kl), "position")
    caption += f", {len(kept):,} of them drawn" if len(kept) < len(q.kl) else ""
    if low := int((q.kl < scale.low).sum()):
        caption += f"; {low:,} below {scale.low:.0e} are drawn on the lower edge"
    across = ("position in the window", Scale(0.0, float(end)))
    drawing = plot(title, across, ("KL, nats", scale), marks)
    return PlotFigure(title, drawing, f"{caption}. Hover over the largest to see their positions.")


def _scatter(p: Positions) -> list[PlotFigure]:
    pairs = p.where(p.finite).sample.astype(np.float64)
    finite = pairs[np.isfinite(pairs).all(axis=2)]
    if not len(finite):
        return []
    scale = Scale.of(finite)
    ends = [scale.low, scale.high]
    marks: list[Mark] = [Line(ends, ends, "thin", "equal")]
    kept = thinned(len(pairs), MOST_POINTS // 3)
    for i, (name, css) in reversed([*enumerate(_SAMPLES)]):
        marks.append(Cloud(pairs[kept, i, 0], pairs[kept, i, 1], css, name))
    title = "Logits of reference and candidate"
    drawing = plot(title, ("reference", scale), ("candidate", scale), marks, height=424.0)
    caption = f"{len(kept):,} of {count(len(pairs), 'position')}, three tokens each."
    return [PlotFigure(title, drawing, caption)]


def _by_token_type(p: Positions, text_of: TextOf) -> list[PlotFigure]:
    q = p.where(p.finite)
    ids, inverse = np.unique(q.choice, return_inverse=True)
    types = np.asarray([token_type(text_of(int(i))) for i in ids.tolist()], np.str_)[inverse]
    rows = []
    for name, _ in _TOKEN_TYPES:
        equal = (q.choice == q.other)[types == name]
        if len(equal):
            agree, of = float(equal.mean()), f"of {len(equal):,}"
            words = f"{name}: {int(equal.sum()):,} {of} top-1 tokens are the same"
            rows.append(Bar(name, agree, f"{share(agree)} {of}", words, "k1"))
    if not rows:
        return []
    title = "Same top-1 by token type"
    caption = "Type of the reference's top-1 token; the full width is 100 %."
    return [PlotFigure(title, bars(title, rows, Scale(0.0, 1.0)), caption)]


def _by_tensor(tensors: Sequence[TensorError]) -> PlotFigure:
    title = "Error by tensor"
    off = [t for t in tensors if t.wrong or t.relative > 0]
    exact, wrong = len(tensors) - len(off), sum(t.wrong for t in tensors)
    if not off:
        nothing = f"All of {count(exact, 'tensor')} have exactly the expected values."
        return PlotFigure(title, "", nothing)
    shown = off[:_TENSORS]
    scale = Scale.of([v for t in shown for v in (t.relative, t.allowed)], log=True, decades=12.0)
    caption = (
        f"Of {count(len(tensors), 'tensor')}, {wrong or 'none'} wrong and {exact or 'none'} exact"
    )
    if len(shown) < len(off):
        caption += f"; the {len(shown)} largest errors relative to their limit are drawn"
    caption += (
        f". Relative squared error on a logarithmic scale from {scale.low:.0e} to {scale.high:.0e}; the mark is the "
        "limit of the tensor's type."
    )
    return PlotFigure(title, bars(title, [_tensor_bar(t) for t in shown], scale), caption)


def _tensor_bar(t: TensorError) -> Bar:
    shape = " × ".join(map(str, t.shape))
    words = (
        f"{t.name} ({t.type_name or 'no type'}, {shape}): error {tensor_words(t)}, "
        f"limit {number(t.allowed)}, largest difference {number(t.max_abs)}"
    )
    cause = t.cause.replace("_", " ") or "wrong"
    note = f"{number(t.relative)}, {cause}" if math.isfinite(t.relative) else cause
    return Bar(
        label=t.name if len(t.name) <= 30 else f"{t.name[:14]}…{t.name[-15:]}",
        value=math.inf if math.isnan(t.relative) else t.relative,
        note=note if t.wrong else tensor_words(t),
        title=f"{words}; {t.detail}" if t.detail else words,
        css="bad" if t.wrong else "k1",
        limit=t.allowed or None,
    )
