"""Importance matrices for the verbs: the file of `--imatrix`, and the texts that one is gathered from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from turbopilot.app.cached_artifacts import DEFAULT_TEXT, gathered
from turbopilot.base.errors import InvalidInput
from turbopilot.base.progress import Reporter

MATRIX_SECONDS: Final = 600.0
"""How long `--imatrix auto` gathers at most."""


def matrix_file(
    given: str,
    model: Path,
    reporter: Reporter,
    *,
    seconds: float = MATRIX_SECONDS,
    threads: int = 0,
    n_gpu_layers: int | None = None,
) -> Path | None:
    """The file that `--imatrix` names; for "auto" one is gathered from the model, once; None for "none" or ""."""
    if given in ("", "none"):
        return None
    if given != "auto":
        return Path(given).expanduser()
    return gathered(model, reporter, seconds=seconds, threads=threads, n_gpu_layers=n_gpu_layers)


def read_texts(paths: Sequence[Path]) -> tuple[str, str]:
    """The text of several files, or else the bundled one, and its name.

    Raises:
        InvalidInput: there is no such file.
    """
    if not paths:
        from turbopilot.corpus import calibration_text

        return calibration_text(), DEFAULT_TEXT
    parts = []
    for path in paths:
        if not path.is_file():
            raise InvalidInput(f"{path}: no such file", hint="give a text file with --text")
        parts.append(path.read_text("utf-8", errors="replace"))
    return "\n".join(parts), ", ".join(path.name for path in paths)
