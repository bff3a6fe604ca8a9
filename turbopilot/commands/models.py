"""`turbopilot models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from turbopilot.base.errors import ModelNotFound, did_you_mean
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.catalog import KnownModel


def models(
    name: Annotated[
        str, typer.Argument(help="One model, to be shown in full: its alias or owner/name.")
    ] = "",
    fits: Annotated[
        str,
        typer.Option(
            "--fits", help="Only those that can be served within so much memory, as 8GiB."
        ),
    ] = "",
    fim: Annotated[
        bool, typer.Option("--fim", help="Only those that fill in between prefix and suffix.")
    ] = False,
    language: Annotated[
        str, typer.Option("--language", help="Only those that know this programming language.")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON object.")
    ] = False,
) -> None:
    """Show the known models: sizes, memory, licence, and what fits this machine.

    The memory is what serving takes in all: the file, the context (8192 tokens, or the model's own where it is
    shorter) and llama.cpp's buffers. Any other checkpoint of the same families works too, by owner/name.

    Example: turbopilot models --fits 8GiB --fim

    Example: turbopilot models santacoder
    """
    from turbopilot import catalog
    from turbopilot.base.sizes import parse_size, size
    from turbopilot.llama.footprint import memory_budget
    from turbopilot.render import models as text

    budget = parse_size("--fits", fits) if fits else memory_budget()
    found = [
        m
        for m in ([_one(name)] if name else catalog.MODELS)
        if (not fits or m.best_type(budget))
        and (not fim or m.fim)
        and (not language or language.lower() in map(str.lower, m.languages))
    ]
    if as_json:
        console.emit_json({"memory": budget, "models": [text.plain(m, budget) for m in found]})
    elif not found:
        console.info("no known model matches these filters; leave out a filter")
    elif name:
        text.in_full(found[0], budget)
    else:
        text.table(found, budget, fits or f"{size(budget)}, three quarters of this machine's")


def _one(name: str) -> KnownModel:
    from turbopilot import catalog

    if model := catalog.find(name):
        return model
    hint = did_you_mean(name, [m.alias for m in catalog.MODELS], "turbopilot models shows them")
    raise ModelNotFound(f"{name}: no model of that name is known", hint=hint)
