"""Resolve a model's name to a file with its tokenizer, for a server whose completions are computed elsewhere."""

from __future__ import annotations

from pathlib import Path

from turbopilot.app.cached_artifacts import converted_vocabulary
from turbopilot.app.resolve import DEMO, parse_name, resolve_checkpoint, resolve_gguf
from turbopilot.base.errors import InvalidInput
from turbopilot.base.progress import Reporter


def resolve_vocabulary(model: str | None, reporter: Reporter) -> Path:
    """Return a GGUF with the tokenizer of a model; of a checkpoint, no weights are downloaded or converted.

    Args:
        model: as for `resolve_gguf`.
        reporter: receives messages and progress.

    Raises:
        InvalidInput: no model is given, so the tokenizer of the upstreams is unknown.
    """
    if not model:
        raise InvalidInput(
            "--upstream needs MODEL, whose tokenizer frames and measures the prompts",
            hint="give the model that the upstreams serve: a GGUF, a checkpoint folder or a known model",
        )
    path = Path(model).expanduser()
    if path.is_file() or (model != DEMO and not path.is_dir() and _is_file(model)):
        return resolve_gguf(model, reporter)
    folder = resolve_checkpoint(model, reporter, only="tokenizer")
    return converted_vocabulary(folder, name=_name(model, path), reporter=reporter)


def _name(model: str, path: Path) -> str:
    """Return the name that clients see: that of the folder, or of the repository."""
    if path.is_dir():
        return path.resolve().name
    return "turbopilot-demo" if model == DEMO else parse_name(model).repo.rpartition("/")[2]


def _is_file(model: str) -> bool:
    """Return whether a name means a GGUF on the Hub."""
    wanted = parse_name(model)
    return bool(wanted.quant or wanted.file)
