"""Pictures of terminals in the project's colours and fonts, which follow the viewer's light or dark mode."""

from __future__ import annotations

import re
from typing import Final

from rich.color import blend_rgb
from rich.color_triplet import ColorTriplet
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from turbopilot.render.look import picture_style

# Variables of look.css for background, foreground, and the terminal's 8 normal and 8 bright colours.
_COLOURS: Final = ("bad", "good", "k2", "link", "k3", "k4")
_NAMES: Final = ("page", "ink", "ink", *_COLOURS, "soft", "soft", *_COLOURS, "ink")
# Rich writes colours as numbers. Each of these stands for the variable with the same place in _NAMES; none of them is a
# mixture of another one with the background, which is Rich's dim text.
_STAND_INS: Final = [(0, 1, 0), *((i, 1, 250) for i in range(1, len(_NAMES)))]
_THEME: Final = TerminalTheme(_STAND_INS[0], _STAND_INS[1], _STAND_INS[2:10], _STAND_INS[10:])
_FRAME: Final = """\
<svg class="{unique_id}" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
LOOK
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px var(--mono); }}
.{unique_id}-title {{ font: bold 18px var(--sans); }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def terminal_svg(console: Console, title: str) -> str:
    """Return what a recording console has shown, as the text of an SVG file."""
    svg = console.export_svg(
        title=title, theme=_THEME, code_format=_FRAME, unique_id="terminal", font_aspect_ratio=0.6
    )
    svg = re.sub(r'<circle [^>]*fill="#\w+"/>', "", svg)  # buttons of a window
    svg = re.sub(r'stroke="rgba[^"]*"', 'stroke="var(--rule)"', svg)
    for name, numbers in zip(_NAMES, _STAND_INS, strict=True):
        colour = ColorTriplet(*numbers)
        dim = blend_rgb(colour, ColorTriplet(*_STAND_INS[0]), 0.4)
        svg = svg.replace(colour.hex, f"var(--{name})").replace(dim.hex, "var(--soft)")
    return svg.replace("LOOK", picture_style())
