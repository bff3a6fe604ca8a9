"""Colours and fonts of everything that is drawn, which `templates/look.css` declares."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def stylesheet(name: str) -> str:
    """Return a stylesheet of `templates`: `look` for colours and fonts as variables, `plot` for the shapes of plots."""
    return (files("turbopilot.render") / "templates" / f"{name}.css").read_text("utf-8")


def picture_style() -> str:
    """Return the colours, fonts and background of an SVG file, which follows the viewer's light or dark mode."""
    return f"{stylesheet('look')}:root {{ background: var(--page); font-family: var(--sans); }}\n"
