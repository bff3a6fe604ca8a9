"""`turbopilot models`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from turbopilot.base.errors import ModelNotFound, did_you_mean
from turbopilot.commands.verb import AsJson, takes
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.catalog import KnownModel


# fmt: off
@dataclass(frozen=True, slots=True)
class ModelsArguments:
    """Arguments of `turbopilot models`."""

    name: Annotated[str, typer.Argument(help="Alias or owner/name of one model to show in full.")] = ""
    fits: Annotated[str, typer.Option("--fits", help="Only models that can be served in this memory (8GiB).")] = ""
    fim: Annotated[bool, typer.Option("--fim", help="Only models that fill in between prefix and suffix.")] = False
    language: Annotated[str, typer.Option("--language", help="Only models for this programming language.")] = ""
    as_json: AsJson = False
# fmt: on


@takes(ModelsArguments)
def models(given: ModelsArguments) -> None:
    """Show the known models: sizes, memory, licence, and what fits this machine.

    The memory is the total for serving: the file, the context (8192 tokens, or the model's own if it is
    shorter) and llama.cpp's buffers. Any other checkpoint of the same families works too, by owner/name.

    Example: turbopilot models --fits 8GiB --fim

    Example: turbopilot models santacoder
    """
    from turbopilot import catalog
    from turbopilot.base.sizes import parse_size, size
    from turbopilot.llama.footprint import memory_budget
    from turbopilot.render import models as text

    name, fits, language = given.name, given.fits, given.language.lower()
    budget = parse_size("--fits", fits) if fits else memory_budget()
    found = [
        m
        for m in ([_known(name)] if name else catalog.MODELS)
        if (not fits or m.best_type(budget))
        and (not given.fim or m.fim)
        and (not language or language in map(str.lower, m.languages))
    ]
    if given.as_json:
        console.emit_json({"memory": budget, "models": [text.plain(m, budget) for m in found]})
    elif not found:
        console.info("no known model matches these filters; leave out a filter")
    elif name:
        text.in_full(found[0], budget)
    else:
        text.table(found, budget, fits or f"{size(budget)}, three quarters of this machine's")


def _known(name: str) -> KnownModel:
    from turbopilot import catalog

    if model := catalog.find(name):
        return model
    hint = did_you_mean(name, [m.alias for m in catalog.MODELS], "turbopilot models shows them")
    raise ModelNotFound(f"{name}: no model of that name is known", hint=hint)
