"""The plots of one report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np

from turbopilot.base.kl_divergence import Array, Floats
from turbopilot.render.html.parts import Markup, count, figure, number, share
from turbopilot.render.scale import Scale
from turbopilot.render.svg import Bar, Cloud, Line, Mark, Spot, bars, plot
from turbopilot.verify.metrics import Place, Positions
from turbopilot.verify.report import Report
from turbopilot.verify.tensor_errors import TensorError
from turbopilot.verify.token_types import TYPES, token_type

TextOf: TypeAlias = Callable[[int], str]
"""The text of a token."""

MOST_POINTS: Final = 1500
"""In one plot: more would make the page large and show no more."""
TENSORS: Final = 30
"""Drawn; the others are in a table only."""

_WORST: Final = 20  # positions that say what they are
_MEDIANS: Final = 64  # points of a running median
_SAMPLES: Final = (
    ("the reference's first choice", "k1"),
    ("the token that follows", "k2"),
    ("any other", "k3"),
)


def token_words(token: int, text_of: TextOf | None) -> str:
    """A token for a person."""
    text = "" if text_of is None or token < 0 else text_of(token)
    return f"{text!r} (token {token})" if text else f"token {token}"


def place_words(place: Place, report: Report, text_of: TextOf | None) -> str:
    """Where something was."""
    windows = report.windows
    name = (
        windows[place.window].name if place.window < len(windows) else f"window {place.window + 1}"
    )
    return f"{name}, position {place.position:,}, {token_words(place.token, text_of)}"


def plots(report: Report, text_of: TextOf | None) -> list[Markup]:
    """All that the report has the data for."""
    found: list[Markup] = []
    p = report.positions
    if p is not None and len(p.window):
        found += _kl_plots(report, p, text_of)
        found += _scatter(p)
        if text_of is not None:
            found += _by_token_type(p, text_of)
    if report.tensors:
        found.append(_by_tensor(report.tensors))
    return found


def thinned(n: int, most: int) -> Array:
    """Indices of at most so many of n things: evenly, always the same, with the first and the last."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def running_median(x: Array, y: Floats) -> tuple[Floats, Floats]:
    """Of y in runs of neighbours along x, each at its middle."""
    order = np.argsort(x, kind="stable")
    runs = np.array_split(order, max(1, min(_MEDIANS, len(order) // 8)))
    kept = [run for run in runs if len(run)]
    return (
        np.asarray([np.median(x[run]) for run in kept]),
        np.asarray([np.median(y[run]) for run in kept]),
    )


def _kl_plots(report: Report, p: Positions, text_of: TextOf | None) -> list[Markup]:
    kinds = [w.kind for w in report.windows]
    long = np.asarray([w < len(kinds) and kinds[w] == "context" for w in p.window.tolist()])
    known = p.kl[p.finite & np.isfinite(p.kl)]
    title = "KL by position"
    if not (known > 0).any():
        nothing = (
            f"It is 0 at every one of {count(len(known), 'position')}."
            if len(known)
            else "Nowhere are the candidate's logits finite."
        )
        return [figure(title, "", nothing)]
    scale = Scale.of(known, log=True)
    groups = (
        (f"{title}, windows of code and of prompts", ~long),
        (f"{title}, the window as long as the context", long),
    )
    return [
        _kl_plot(name, p.where(mask), scale, report, text_of) for name, mask in groups if mask.any()
    ]


def _kl_plot(
    title: str, p: Positions, scale: Scale, report: Report, text_of: TextOf | None
) -> Markup:
    good = p.finite & np.isfinite(p.kl)
    q, bad = p.where(good), p.where(~good)
    kept = thinned(len(q.kl), MOST_POINTS)
    marks: list[Mark] = [Cloud(q.position[kept], q.kl[kept], "k1", "one position")]
    if len(q.kl) > 1:
        marks.append(Line(*running_median(q.position, q.kl), "k2", "running median"))
    if report.limits is not None:
        ends = [0, int(p.position.max(initial=1))]
        if scale.low <= report.limits.mean_kl <= scale.high:
            marks.append(Line(ends, [report.limits.mean_kl] * 2, "thin", "limit of the mean"))
    largest = np.argsort(-q.kl, kind="stable")[:_WORST].tolist()
    for n, i in enumerate(largest):
        place = Place(int(q.window[i]), int(q.position[i]), int(q.choice[i]))
        other = token_words(int(q.other[i]), text_of)
        kl = float(q.kl[i])
        told = f"KL {number(kl)}: {place_words(place, report, text_of)}; the candidate's choice: {other}"
        name = "" if n else f"the {len(largest)} largest"
        marks.append(Spot(float(q.position[i]), kl, "k4", told, name))
    if len(bad.window):
        at = bad.position[thinned(len(bad.position), MOST_POINTS)]
        marks.append(Cloud(at, np.full(len(at), scale.high), "bad", "not finite"))
    shown = f"{count(len(q.kl), 'position')}"
    caption = f"{shown}, {len(kept):,} of them drawn" if len(kept) < len(q.kl) else shown
    low = int((q.kl < scale.low).sum())
    below = f"; {low:,} below {scale.low:.0e} lie on the lower edge" if low else ""
    x = Scale(0.0, float(p.position.max(initial=1)))
    drawing = plot(title, ("position in the window", x), ("KL, nats", scale), marks)
    return figure(
        title, drawing, f"{caption}{below}. The largest say where they are, under the pointer."
    )


def _scatter(p: Positions) -> list[Markup]:
    pairs = p.where(p.finite).sample.astype(np.float64)
    finite = pairs[np.isfinite(pairs).all(axis=2)]
    if not len(finite):
        return []
    scale = Scale.of(finite)
    ends = [scale.low, scale.high]
    marks: list[Mark] = [Line(ends, ends, "thin", "equal")]
    kept = thinned(len(pairs), MOST_POINTS // 3)
    for i in reversed(range(pairs.shape[1])):
        name, css = _SAMPLES[min(i, len(_SAMPLES) - 1)]
        marks.append(Cloud(pairs[kept, i, 0], pairs[kept, i, 1], css, name))
    title = "Logits of both models"
    axes = (("reference", scale), ("candidate", scale))
    drawing = plot(title, *axes, marks, height=424.0)
    return [
        figure(
            title,
            drawing,
            f"{len(kept):,} of {count(len(pairs), 'position')}, three tokens of each.",
        )
    ]


def _by_token_type(p: Positions, text_of: TextOf) -> list[Markup]:
    q = p.where(p.finite)
    ids, inverse = np.unique(q.choice, return_inverse=True)
    sorts = np.asarray([TYPES.index(token_type(text_of(int(i)))) for i in ids.tolist()], np.int64)
    of = sorts[inverse] if len(ids) else np.zeros(0, np.int64)
    rows = []
    for i, name in enumerate(TYPES):
        equal = (q.choice == q.other)[of == i]
        if len(equal):
            agree = float(equal.mean())
            note = f"{share(agree)} of {len(equal):,}"
            told = f"{name}: {int(equal.sum()):,} of {len(equal):,} first choices are the same"
            rows.append(Bar(name, agree, note, told, "k1"))
    if not rows:
        return []
    title = "Same first choice, by type of token"
    caption = "By what the reference would write; the whole width is 100 %."
    return [figure(title, bars(title, rows, Scale(0.0, 1.0)), caption)]


def tensor_words(t: TensorError) -> str:
    """A tensor's error, or why there is none."""
    return number(t.relative) if math.isfinite(t.relative) else "none measured"


def _by_tensor(tensors: Sequence[TensorError]) -> Markup:
    title = "Error by tensor"
    off = [t for t in tensors if t.wrong or t.relative > 0]
    exact = len(tensors) - len(off)
    wrong = sum(t.wrong for t in tensors)
    if not off:
        return figure(title, "", f"Each of {count(exact, 'tensor')} is exactly what it should be.")
    shown = off[:TENSORS]
    scale = Scale.of([v for t in shown for v in (t.relative, t.allowed)], log=True, decades=12.0)
    parts = [
        f"Of {count(len(tensors), 'tensor')}, {wrong or 'none'} wrong and {exact or 'none'} exact",
        f"; of the others, the {len(shown)} worst beside what their type may have" if len(shown) < len(off) else "",
        f". Relative squared error, logarithmic, from {scale.low:.0e} to {scale.high:.0e}; the mark is what the type "
        "may have.",
    ]  # fmt: skip
    drawing = bars(title, [_tensor_bar(t) for t in shown], scale)
    return figure(title, drawing, "".join(parts))


def _tensor_bar(t: TensorError) -> Bar:
    label = t.name if len(t.name) <= 30 else f"{t.name[:14]}…{t.name[-15:]}"
    told = (
        f"{t.name} ({t.type_name or 'no type'}, {' × '.join(map(str, t.shape))}): "
        f"error {tensor_words(t)}, may have {number(t.allowed)}, largest difference {number(t.max_abs)}"
    )
    cause = t.cause.replace("_", " ") or "wrong"
    note = f"{number(t.relative)}, {cause}" if math.isfinite(t.relative) else cause
    return Bar(
        label,
        t.relative if t.relative == t.relative else math.inf,
        note if t.wrong else tensor_words(t),
        f"{told}; {t.detail}" if t.detail else told,
        "bad" if t.wrong else "k1",
        t.allowed or None,
    )
