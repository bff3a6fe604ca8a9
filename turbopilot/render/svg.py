"""Plots as inline SVG text: axes, points, lines and bars.

Shapes have CSS classes and no colours, so that one SVG works in light mode, dark mode and print. All coordinates are
finite: values that are not finite are skipped, and values outside the scale are drawn at its edge.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.render.look import picture_style, stylesheet
from turbopilot.render.scale import Scale

WIDTH: Final = 440.0
"""Width of every plot in SVG units; the page scales it."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 16.0, 14.0, 52.0  # margins, for labels of 16 units
_XMLNS: Final = 'xmlns="http://www.w3.org/2000/svg"'
_ROW: Final = 34.0  # height of a bar with its label


def visible(text: str) -> str:
    """Return the text with unprintable characters (control, lone surrogates, bidirectional marks) as Python escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def escaped(text: str) -> str:
    """Return the text, made `visible` and escaped for HTML and XML text and attributes."""
    return html.escape(visible(text))


@dataclass(frozen=True, slots=True)
class PlotFrame:
    """Area in which a plot's data are drawn."""

    x: Scale
    y: Scale
    height: float

    def places(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Iterator[tuple[float, float]]:
        """Yield the coordinates of the points whose x and y are finite."""
        wide, high = WIDTH - _LEFT - _RIGHT, self.height - _BOTTOM - _TOP
        for a, b in zip(np.asarray(x).tolist(), np.asarray(y).tolist(), strict=True):
            if math.isfinite(a) and math.isfinite(b):
                yield _LEFT + self.x.at(a) * wide, self.height - _BOTTOM - self.y.at(b) * high


@dataclass(frozen=True, slots=True)
class Cloud:
    """Many points in one element, without titles."""

    x: npt.ArrayLike
    y: npt.ArrayLike
    css: str
    name: str = ""

    def svg(self, frame: PlotFrame) -> str:
        """Return a path of lines of length 0 with round ends, which show as points."""
        path = "".join(f"M{_n(x)} {_n(y)}h0" for x, y in frame.places(self.x, self.y))
        return f'<path class="cloud {self.css}" d="{path}"/>' if path else ""


class Line(Cloud):
    """Line through points, in the given order."""

    __slots__ = ()

    def svg(self, frame: PlotFrame) -> str:
        """Return a polyline."""
        points = " ".join(f"{_n(x)},{_n(y)}" for x, y in frame.places(self.x, self.y))
        return f'<polyline class="line {self.css}" points="{points}"/>' if points else ""


@dataclass(frozen=True, slots=True)
class Spot:
    """One point; `title` is its tooltip, `radius` is in SVG units."""

    x: float
    y: float
    css: str
    title: str
    name: str = ""
    radius: float = 4.0

    def svg(self, frame: PlotFrame) -> str:
        """Return a circle."""
        return "".join(
            f'<circle class="spot {self.css}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(self.radius)}">'
            f"<title>{escaped(self.title)}</title></circle>"
            for x, y in frame.places([self.x], [self.y])
        )


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels next to points, one for each, moved down if they would overlap."""

    x: Sequence[float]
    y: Sequence[float]
    words: Sequence[str]
    css: str = "label"
    name: str = ""

    def svg(self, frame: PlotFrame) -> str:
        """Return the labels, and a line to each label that was moved."""
        parts = []
        lowest = {"start": -math.inf, "end": -math.inf}  # lowest label on each side of the points
        placed = [
            (y, x, words)
            for a, b, words in zip(self.x, self.y, self.words, strict=True)
            for x, y in frame.places([a], [b])
        ]
        for y, x, words in sorted(placed, key=lambda at: at[0]):
            side = "start" if x < WIDTH * 0.6 else "end"
            at = x + (9 if side == "start" else -9)
            lowest[side] = low = max(lowest[side] + 17, y)
            if low > y + 6:
                parts.append(f'<path class="grid" d="M{_n(x)} {_n(y)}L{_n(at)} {_n(low)}"/>')
            place = f'x="{_n(at)}" y="{_n(low + 4)}" text-anchor="{side}"'
            parts.append(f'<text class="{self.css}" {place}>{escaped(words)}</text>')
        return "".join(parts)


Mark: TypeAlias = Cloud | Spot | Labels
"""A series of points that `plot` draws; those with a name are in the legend."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Horizontal bar with its label above."""

    label: str  # name of the row
    value: float  # length; inf for the full width
    note: str  # text at the right end of the label's line
    title: str  # tooltip
    css: str  # CSS class
    limit: float | None = None  # position of a mark on the bar


def plot(
    title: str,
    x: tuple[str, Scale],
    y: tuple[str, Scale],
    marks: Sequence[Mark],
    *,
    height: float = 300.0,
) -> str:
    """Return the SVG of a plot and the HTML of its legend; `x` and `y` are an axis' label and scale."""
    frame = PlotFrame(x[1], y[1], height)
    end, foot = WIDTH - _RIGHT, height - _BOTTOM
    parts = []
    for value, label in y[1].ticks():
        at = foot - y[1].at(value) * (foot - _TOP)
        parts.append(f'<path class="grid" d="M{_n(_LEFT)} {_n(at)}H{_n(end)}"/>')
        parts.append(f'<text x="{_n(_LEFT - 6)}" y="{_n(at + 4)}" text-anchor="end">{label}</text>')
    for value, label in x[1].ticks():
        at = _LEFT + x[1].at(value) * (end - _LEFT)
        parts.append(f'<path class="grid" d="M{_n(at)} {_n(foot)}V{_n(_TOP)}"/>')
        parts.append(f'<text x="{_n(at)}" y="{_n(foot + 18)}" text-anchor="middle">{label}</text>')
    parts += [mark.svg(frame) for mark in marks]
    below = f'x="{_n((_LEFT + end) / 2)}" y="{_n(height - 8)}"'
    aside = f'transform="translate(14 {_n((_TOP + foot) / 2)}) rotate(-90)"'
    for place, label in ((below, x[0]), (aside, y[0])):
        parts.append(f'<text class="axis" {place} text-anchor="middle">{escaped(label)}</text>')
    return _svg(title, height, parts) + _legend(marks)


def standalone(drawing: str) -> str:
    """Return a drawing without a legend as the text of an SVG file, with its colours, fonts and CSS."""
    opening, _, shapes = drawing.partition(">")
    style = f"{picture_style()}{stylesheet('plot')}"
    return f'{opening} width="{_n(2 * WIDTH)}"><style>{style}</style>{shapes}\n'


def bars(title: str, rows: Sequence[Bar], scale: Scale) -> str:
    """Return the SVG of horizontal bars, one below the other."""
    parts = []
    for i, row in enumerate(rows):
        y = i * _ROW
        length = max(2.0, scale.at(row.value) * WIDTH)
        parts.append(
            f"<g><title>{escaped(row.title)}</title>"
            f'<text class="of" x="0" y="{_n(y + 15)}">{escaped(row.label)}</text>'
            f'<text class="axis" x="{_n(WIDTH)}" y="{_n(y + 15)}" text-anchor="end">{escaped(row.note)}</text>'
            f'<rect class="rail" x="0" y="{_n(y + 20)}" width="{_n(WIDTH)}" height="8"/>'
            f'<rect class="bar {row.css}" x="0" y="{_n(y + 20)}" width="{_n(length)}" height="8"/>'
        )
        if row.limit is not None and math.isfinite(row.limit):
            at = _n(scale.at(row.limit) * WIDTH)
            parts.append(f'<path class="limit" d="M{at} {_n(y + 18)}v12"/>')
        parts.append("</g>")
    return _svg(title, _ROW * len(rows), parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg {_XMLNS} class="plot" role="img" aria-label="{escaped(title)}" '
        f'viewBox="0 0 {_n(WIDTH)} {_n(height)}">{"".join(parts)}</svg>'
    )


def _legend(marks: Sequence[Mark]) -> str:
    """Return the legend as an HTML list, which wraps on narrow pages."""
    items = []
    for mark in marks:
        if mark.name:
            shape = f'<circle class="spot {mark.css}" cx="8" cy="6" r="4"/>'
            if isinstance(mark, Line):
                shape = f'<path class="line {mark.css}" d="M0 6h16"/>'
            key = f'<svg {_XMLNS} class="key" aria-hidden="true" viewBox="0 0 16 12">{shape}</svg>'
            items.append(f"<li>{key} {escaped(mark.name)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>' if items else ""


def _n(value: float) -> str:
    """Return a coordinate as text, rounded to a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0")
