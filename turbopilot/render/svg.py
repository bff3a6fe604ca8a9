"""A small plotting room: axes, points, lines and bars as the text of an inline SVG. A pure leaf: knows no reports.

Colours are the page's: every shape has a class, none has a colour, so that light, dark and print are one SVG. All
coordinates are finite, whatever the data are: what is not finite is left out, what lies outside a scale is drawn at
its edge.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from turbopilot.render.scale import Scale

WIDTH: Final = 440.0
"""Of every plot, in its own units; the page scales it."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 16.0, 14.0, 52.0  # room for labels, in a type of 16 units
_XMLNS: Final = 'xmlns="http://www.w3.org/2000/svg"'
_ROW: Final = 34.0  # of a bar with its label above it


def escaped(text: str) -> str:
    """Text for HTML, for XML and for an attribute of either, whatever it holds.

    What is not printable (control characters, lone surrogates, marks that turn the direction of writing) is shown as
    Python would write it: such a character could not be seen, or makes the page ill-formed.
    """
    plain = text if text.isprintable() else "".join(map(_visible, text))
    return html.escape(plain)


def _visible(char: str) -> str:
    return char if char.isprintable() else repr(char)[1:-1]


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a plot's data are drawn."""

    x: Scale
    y: Scale
    height: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A value's coordinates."""
        return (
            _LEFT + self.x.at(x) * (WIDTH - _LEFT - _RIGHT),
            self.height - _BOTTOM - self.y.at(y) * (self.height - _BOTTOM - _TOP),
        )

    def places(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Iterator[tuple[float, float]]:
        """Those of many, but not of what is NaN or infinite."""
        for a, b in zip(np.asarray(x).tolist(), np.asarray(y).tolist(), strict=True):
            if math.isfinite(a) and math.isfinite(b):
                yield self.place(a, b)


class Mark(Protocol):
    """Something drawn in a frame."""

    @property
    def css(self) -> str:
        """Its class."""

    @property
    def name(self) -> str:
        """In the legend; "" for none."""

    def svg(self, frame: Frame) -> str:
        """Its elements."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """Many points in one element, for their number; none of them can say what it is."""

    x: npt.ArrayLike
    y: npt.ArrayLike
    css: str
    name: str = ""

    def svg(self, frame: Frame) -> str:
        """See `Mark`."""
        # A line of no length with round ends is a point.
        path = "".join(f"M{_n(x)} {_n(y)}h0" for x, y in frame.places(self.x, self.y))
        return f'<path class="cloud {self.css}" d="{path}"/>' if path else ""


@dataclass(frozen=True, slots=True)
class Spot:
    """One point that says what it is.

    Attributes:
        title: shown where the pointer rests on it.
        radius: in the plot's units.
    """

    x: float
    y: float
    css: str
    title: str
    name: str = ""
    radius: float = 4.0

    def svg(self, frame: Frame) -> str:
        """See `Mark`."""
        for x, y in frame.places([self.x], [self.y]):
            title = f"<title>{escaped(self.title)}</title>"
            place = f'cx="{_n(x)}" cy="{_n(y)}" r="{_n(self.radius)}"'
            return f'<circle class="spot {self.css}" {place}>{title}</circle>'
        return ""


@dataclass(frozen=True, slots=True)
class Labels:
    """Words beside points, moved down where they would hide each other.

    Attributes:
        words: one for each point.
    """

    x: Sequence[float]
    y: Sequence[float]
    words: Sequence[str]
    css: str = "label"
    name: str = ""

    def svg(self, frame: Frame) -> str:
        """See `Mark`."""
        parts = []
        lowest = {
            "start": -math.inf,
            "end": -math.inf,
        }  # of the labels so far, on either side of their points
        pairs = zip(self.x, self.y, self.words, strict=True)
        placed = [
            (*frame.place(x, y), words)
            for x, y, words in pairs
            if math.isfinite(x) and math.isfinite(y)
        ]
        for x, y, words in sorted(placed, key=lambda at: at[1]):
            side = "start" if x < WIDTH * 0.6 else "end"
            at = x + (9 if side == "start" else -9)
            lowest[side] = max(lowest[side] + 17, y)
            if lowest[side] > y + 6:
                parts.append(
                    f'<path class="grid" d="M{_n(x)} {_n(y)}L{_n(at)} {_n(lowest[side])}"/>'
                )
            place = f'x="{_n(at)}" y="{_n(lowest[side] + 4)}" text-anchor="{side}"'
            parts.append(f'<text class="{self.css}" {place}>{escaped(words)}</text>')
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points, in their order."""

    x: npt.ArrayLike
    y: npt.ArrayLike
    css: str
    name: str = ""

    def svg(self, frame: Frame) -> str:
        """See `Mark`."""
        points = " ".join(f"{_n(x)},{_n(y)}" for x, y in frame.places(self.x, self.y))
        return f'<polyline class="line {self.css}" points="{points}"/>' if points else ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar from the left, its label above it.

    Attributes:
        label: what it is of.
        value: its length; infinite: the whole width.
        note: at the right end of the label's line.
        title: shown where the pointer rests on it.
        css: its class.
        limit: where a limit is marked across it.
    """

    label: str
    value: float
    note: str
    title: str
    css: str
    limit: float | None = None


def plot(
    title: str,
    x: tuple[str, Scale],
    y: tuple[str, Scale],
    marks: Sequence[Mark],
    *,
    height: float = 300.0,
) -> str:
    """Axes (each a label and a scale) with marks between them, and their legend below."""
    frame = Frame(x[1], y[1], height)
    end, foot = WIDTH - _RIGHT, height - _BOTTOM
    parts = []
    for value, label in y[1].ticks():
        _, at = frame.place(x[1].low, value)
        parts.append(f'<path class="grid" d="M{_n(_LEFT)} {_n(at)}H{_n(end)}"/>')
        parts.append(f'<text x="{_n(_LEFT - 6)}" y="{_n(at + 4)}" text-anchor="end">{label}</text>')
    for value, label in x[1].ticks():
        at, _ = frame.place(value, y[1].low)
        parts.append(f'<path class="grid" d="M{_n(at)} {_n(foot)}V{_n(_TOP)}"/>')
        parts.append(f'<text x="{_n(at)}" y="{_n(foot + 18)}" text-anchor="middle">{label}</text>')
    parts += [mark.svg(frame) for mark in marks]
    below = f'x="{_n((_LEFT + end) / 2)}" y="{_n(height - 8)}"'
    aside = f'transform="translate(14 {_n((_TOP + foot) / 2)}) rotate(-90)"'
    for place, label in ((below, x[0]), (aside, y[0])):
        parts.append(f'<text class="axis" {place} text-anchor="middle">{escaped(label)}</text>')
    return _svg(title, height, parts) + _legend(marks)


def standalone(drawing: str, style: str) -> str:
    """A drawing without a legend as a file of its own, which has no page to style it.

    Args:
        drawing: of `plot` or `bars`.
        style: CSS for the classes of its shapes.
    """
    opening, _, shapes = drawing.partition(">")
    return f'{opening} width="{_n(2 * WIDTH)}"><style>{style}</style>{shapes}\n'


def bars(title: str, rows: Sequence[Bar], scale: Scale) -> str:
    """Bars below each other."""
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
    """As a list, which wraps where the page is narrow."""
    items = []
    for mark in marks:
        if mark.name:
            shape = (
                f'<path class="line {mark.css}" d="M0 6h16"/>'
                if isinstance(mark, Line)
                else f'<circle class="spot {mark.css}" cx="8" cy="6" r="4"/>'
            )
            key = f'<svg {_XMLNS} class="key" aria-hidden="true" viewBox="0 0 16 12">{shape}</svg>'
            items.append(f"<li>{key} {escaped(mark.name)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>' if items else ""


def _n(value: float) -> str:
    """A coordinate, short: a tenth of a unit is less than can be seen."""
    return f"{value:.1f}".removesuffix(".0")
