"""Which models `turbopilot serve` was told to serve, and how they share the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from serve.settings import NamedModel, PoolOptions
from turbopilot.base.errors import InvalidInput
from turbopilot.render import console

# Where an option's value may come from, by what goes first: the names of click's ParameterSource.
_RANK: Final = {"COMMANDLINE": 3, "ENVIRONMENT": 2, "DEFAULT_MAP": 1}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model as a person names it; no name is the file's own, no file the bundled model."""

    name: str
    file: str | None


def wanted_models(
    context: typer.Context, model: str | None, model_file: str | None, models: Sequence[str]
) -> list[Wanted]:
    """All models, the default first.

    Args:
        context: knows what was said where.
        model: the argument.
        model_file: -f, which means the same.
        models: NAME=FILE each.

    Raises:
        InvalidInput: two default models, or no NAME=FILE.
    """
    named = [_parse(text) for text in models]
    for i, m in enumerate(named):
        if any(m.name == other.name for other in named[:i]):
            raise InvalidInput(
                f"--model: two models are called {m.name}", hint="give each a name of its own"
            )
    first = _default(context, model, model_file)
    return [Wanted("", first), *named] if first or not named else named


def _default(context: typer.Context, model: str | None, model_file: str | None) -> str | None:
    if not (model and model_file) or Path(model) == Path(model_file):
        return model or model_file
    ranks = [
        _RANK.get(getattr(context.get_parameter_source(name), "name", ""), 0)
        for name in ("model", "model_file")
    ]
    if ranks[0] == ranks[1]:
        raise InvalidInput(f"two models: {model} and -f {model_file}", hint="give one of them")
    return model if ranks[0] > ranks[1] else model_file


def _parse(text: str) -> Wanted:
    name, _, file = text.partition("=")
    if not (name and file and name.isprintable()):
        raise InvalidInput(
            f"--model {text}: is no NAME=FILE",
            hint="write --model small=small.gguf, or MODEL alone",
        )
    return Wanted(name, file)


def resolve_models(wanted: Sequence[Wanted], model_type: str | None) -> list[NamedModel]:
    """Their files, fetched and made where they have to be.

    Args:
        wanted: see `wanted_models`.
        model_type: of an old .bin, for the default model.

    Raises:
        TurboPilotError: a model cannot be found, fetched or made.
    """
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.catalog import known_template
    from turbopilot.formats.gguf.file import read_gguf

    models = []
    for i, w in enumerate(wanted):
        file = resolve_gguf(
            w.file, console.REPORTER, model_type=(model_type or "") if i == 0 else ""
        )
        models.append(NamedModel(w.name, file, known_template(read_gguf(file))))
    return models


def pool_options(memory: str, minutes: float | None) -> PoolOptions:
    """How they share the machine.

    Raises:
        InvalidInput: the memory is no size.
    """
    from turbopilot.base.sizes import parse_size

    n_bytes = None if memory.lower() == "auto" else parse_size("--model-memory", memory)
    return PoolOptions(n_bytes, None if minutes is None else 60 * minutes)
