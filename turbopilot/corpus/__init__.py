"""Real code in many languages: `calibration/` for importance matrices, `held_out/` for comparing quantized files.

No project is in both parts. `SOURCES.md` documents the source, licence and selection of each excerpt, and `LICENSES.md`
has the licence texts and copyright notices. Each data file contains the excerpts of one language. A line with a form
feed, project, path and line numbers precedes each excerpt.
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
"""Languages of the calibration text; the held-out text contains nearly all of them."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Lines from a file of another project.

    `lines` are the first and last line, counted from 1, such as "12-80". Each line of `text` ends with LF.
    """

    language: str
    project: str
    path: str
    lines: str
    text: str


def excerpts(part: Part) -> tuple[Excerpt, ...]:
    """Return all excerpts of a part, sorted by language, then in the order of the data file."""
    folder = resources.files("turbopilot.corpus").joinpath(part)
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".txt")), key=lambda f: f.name)
    # Read as bytes: text mode would convert the CRLF of a wrong checkout to LF and hide the error.
    return tuple(
        excerpt
        for f in files
        for excerpt in _parse(f.name.removesuffix(".txt"), f.read_bytes().decode("utf-8"))
    )


def calibration_text() -> str:
    """Return about 650 KB of code for gathering an importance matrix; the text is always the same.

    Languages are mixed, so that each has about the same share in the first 150 KB or more as in the whole text.
    """
    return _mixed(excerpts("calibration"))


def evaluation_text() -> str:
    """Return about 120 KB of code from other projects, mixed like the calibration text; always the same text."""
    return _mixed(excerpts("held_out"))


def _parse(language: str, content: str) -> list[Excerpt]:
    found = []
    for block in content.split("\f ")[1:]:
        name, text = block.split("\n", 1)
        project, path, lines = name.split(" ")
        found.append(Excerpt(language, project, path, lines, text))
    return found


def _mixed(found: tuple[Excerpt, ...]) -> str:
    """Join the texts with blank lines, sorted by the position of their middle within their language (0 to 1)."""
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
