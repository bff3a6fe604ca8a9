"""Colours and fonts of pages and pictures, which look.css alone declares."""

from __future__ import annotations

import io
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rich.console import Console

from turbopilot.render.look import picture_style, stylesheet

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from lib.terminal_picture import terminal_svg  # noqa: E402

TEMPLATES = ROOT / "turbopilot/render/templates"
SHEETS = [*TEMPLATES.glob("*.css"), *(ROOT / "serve/page/src").rglob("*.css")]
OTHERS = [p for p in SHEETS if p.name != "look.css"]
DRAWING = [
    *TEMPLATES.glob("*.j2"), *(ROOT / "turbopilot/render").glob("*.py"), *(ROOT / "scripts/scale").glob("*.py"),
    ROOT / "scripts/lib/terminal_picture.py",
]  # fmt: skip
PICTURES = sorted((ROOT / "docs/img").glob("*.svg"))
COLOUR = re.compile(
    r"(?<![\w&])#(?:[0-9a-f]{3,4}){1,2}\b(?!\()|\b(?:rgba?|hsla?|oklch)\([\d ]", re.IGNORECASE
)
FONT = re.compile(r"\b(?:sans-serif|serif|monospace)\b")
DECLARED = re.compile(r"(--[\w-]+)\s*:")
USED = re.compile(r"var\((--[\w-]+)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*OTHERS, *DRAWING], ids=name)
def test_colours_and_fonts_are_variables(path: Path) -> None:
    text = path.read_text("utf-8")
    assert COLOUR.findall(text) == []
    assert FONT.findall(text) == []


@pytest.mark.parametrize("path", SHEETS, ids=name)
def test_variables_are_declared(path: Path) -> None:
    text = path.read_text("utf-8")
    assert set(USED.findall(text)) <= set(DECLARED.findall(stylesheet("look") + text))


def test_dark_mode_changes_every_colour() -> None:
    light, dark, *_ = re.findall(r":root \{(.*?)\}", stylesheet("look"), re.DOTALL)
    fonts = {"--sans", "--mono"}
    assert set(DECLARED.findall(light)) - fonts == set(DECLARED.findall(dark))


@pytest.mark.parametrize("path", PICTURES, ids=name)
def test_picture_has_the_present_look(path: Path) -> None:
    text = path.read_text("utf-8")
    ET.fromstring(text)
    assert picture_style() in text
    drawn = text.replace(picture_style(), "")
    assert COLOUR.findall(drawn) == []
    assert set(USED.findall(drawn)) <= set(DECLARED.findall(text))


def test_colours_of_a_terminal_become_variables() -> None:
    console = Console(record=True, width=40, file=io.StringIO(), force_terminal=True)
    for style in (
        "default",
        "bold green",
        "dim",
        "dim red",
        "on blue",
        "reverse yellow",
        "bright_black",
    ):
        console.print("text", style=style)
    svg = terminal_svg(console, "Title").replace(picture_style(), "")
    assert COLOUR.findall(svg) == []
    rules = dict(re.findall(r"\.terminal-(r\d+) \{ fill: var\(--(\w+)\)", svg))
    styles = [rules[c] for c in re.findall(r'class="terminal-(r\d+)"[^>]*>text<', svg)]
    assert styles == ["ink", "good", "soft", "soft", "ink", "page", "soft"]
