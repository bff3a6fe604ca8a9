"""Real code in many languages: a text to calibrate with, another to measure on. A leaf: knows nothing of models.

`calibration/` is what an importance matrix is gathered over, `held_out/` what quantized files are compared on; no
project is in both. Where each excerpt comes from, its licence and how it was chosen: `SOURCES.md`; the licence texts
and copyright notices: `LICENSES.md`. It is code as it is in files: no prompts, no chat, no infill markers.

A data file holds the excerpts of one language. A line that opens with a form feed starts an excerpt and names it
(project, path, lines); no excerpt has a form feed in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal

__all__ = ["LANGUAGES", "Excerpt", "calibration_text", "evaluation_text", "excerpts"]

Part = Literal["calibration", "held_out"]

LANGUAGES: Final = (
    "c", "cpp", "csharp", "css", "dockerfile", "go", "haskell", "html", "java", "javascript", "json", "kotlin", "lua",
    "makefile", "markdown", "php", "python", "r", "ruby", "rust", "scala", "shell", "sql", "swift", "toml", "tsx",
    "typescript", "yaml",
)  # fmt: skip
"""The languages of the calibration text, named as its files are. The held-out text has nearly all of them."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Lines of a file of another project.

    Attributes:
        language: one of LANGUAGES.
        project: its name, as in SOURCES.md.
        path: of the file within the project.
        lines: first and last line, counted from 1, as in "12-80".
        text: the lines, LF after each.
    """

    language: str
    project: str
    path: str
    lines: str
    text: str


def excerpts(part: Part) -> tuple[Excerpt, ...]:
    """All excerpts of a part, by language, then as they stand in its file."""
    folder = resources.files("turbopilot.corpus").joinpath(part)
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".txt")), key=lambda f: f.name)
    # Bytes, not read_text: text mode would turn a checkout's CRLF into LF, and hide that it had any.
    return tuple(
        excerpt
        for f in files
        for excerpt in _parse(f.name.removesuffix(".txt"), f.read_bytes().decode("utf-8"))
    )


def calibration_text() -> str:
    """About 650 KB of code to gather an importance matrix over; always the same.

    Excerpts of all languages are mixed such that a beginning of it, from 150 KB on, has every language, each with about
    its share of the whole: who reads only the first chunks still calibrates for all of them.
    """
    return _mixed(excerpts("calibration"))


def evaluation_text() -> str:
    """About 120 KB of code of other projects than the calibration's, mixed like it; always the same."""
    return _mixed(excerpts("held_out"))


def _parse(language: str, content: str) -> list[Excerpt]:
    found = []
    for block in content.split("\f ")[1:]:
        name, text = block.split("\n", 1)
        project, path, lines = name.split(" ")
        found.append(Excerpt(language, project, path, lines, text))
    return found


def _mixed(found: tuple[Excerpt, ...]) -> str:
    """The texts in order of where their middle lies in their language, from 0 to 1, a blank line between."""
    sizes = {e.language: 0 for e in found}
    for e in found:
        sizes[e.language] += len(e.text)
    read = dict.fromkeys(sizes, 0)
    placed = []
    for e in found:
        middle = (read[e.language] + len(e.text) / 2) / sizes[e.language]
        read[e.language] += len(e.text)
        placed.append((middle, e.language, e.text))
    return "\n".join(text for _, _, text in sorted(placed))
