"""`turbopilot models`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turbopilot.base.errors import ModelNotFound, did_you_mean
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.catalog import Model

# Of this machine's memory, what a model may take: the rest is the system's and the editor's.
SHARE = 0.75


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
    from turbopilot.base.memory import total_bytes
    from turbopilot.base.option_values import parse_size

    budget = parse_size("--fits", fits) if fits else int(total_bytes() * SHARE)
    found = [
        m
        for m in ([_one(name)] if name else catalog.MODELS)
        if (not fits or catalog.best_type(m, budget))
        and (not fim or m.fim)
        and (not language or _knows(m, language))
    ]
    if as_json:
        console.emit_json({"memory": budget, "models": [_plain(m, budget) for m in found]})
    elif name and found:
        _in_full(found[0], budget)
    elif found:
        _table(found, budget, fits or f"{console.size(budget)}, three quarters of this machine's")
    else:
        console.info("none of the known models is so; leave out a filter")


def _one(name: str) -> Model:
    from turbopilot import catalog

    if model := catalog.find(name):
        return model
    hint = did_you_mean(name, [m.alias for m in catalog.MODELS], "turbopilot models shows them")
    raise ModelNotFound(f"{name}: no model of that name is known", hint=hint)


def _knows(model: Model, language: str) -> bool:
    return language.lower() in (known.lower() for known in model.languages)


def _plain(model: Model, budget: int) -> dict[str, Any]:
    from turbopilot import catalog

    sizes = {kind: catalog.footprint(model, kind).total for kind in catalog.TYPES}
    return {**asdict(model), "memory": sizes, "best_type": catalog.best_type(model, budget)}


def _table(found: list[Model], budget: int, memory: str) -> None:
    from turbopilot import catalog
    from turbopilot.catalog.prompt_speed import prompt_speeds

    rows = []
    for m in found:
        sizes = [f"{catalog.footprint(m, k).total / 1e9:.1f}" for k in ("Q8_0", "Q4_K_M")]
        best = catalog.best_type(m, budget) or "–"
        fim = "yes" if m.fim else "no"
        rows.append([m.alias, f"{m.parameters / 1e9:.2f}", *sizes, best, fim, m.licence])
    console.table(
        "",
        ["model", "10⁹ weights", "Q8_0 GB", "Q4_K_M GB", "fits as", "infills", "licence"],
        rows,
        numbers=(1, 2, 3),
    )
    console.result(f"fits as: within {memory}; – not at all")
    console.result(f"a prompt's speed, which an editor feels first: {prompt_speeds(catalog.TYPES)}")
    console.result("one of them in full: turbopilot models NAME; to use it: turbopilot serve NAME")


def _in_full(model: Model, budget: int) -> None:
    from turbopilot import catalog
    from turbopilot.catalog.prompt_speed import prompt_speeds

    sizes = (f"{k} {console.size(catalog.footprint(model, k).total)}" for k in catalog.TYPES)
    best = catalog.best_type(model, budget)
    lines = {
        "model": model.alias,
        "repository": model.url + (f" at {model.revision}" if model.revision else ""),
        "family": f"{model.family} ({model.architecture})",
        "parameters": f"{model.parameters:,}",
        "context": f"{model.context:,} tokens",
        "languages": ", ".join(model.languages) or model.breadth,
        "infills": "yes" if model.fim else "no",
        "licence": model.licence + (", to be accepted on its page first" if model.gated else ""),
        "for": model.suits,
        "memory": ", ".join(sizes),
        "prompts": prompt_speeds(catalog.TYPES),
        "fits": f"as {best}" if best else "not into this memory",
        "ready GGUF": model.gguf_repository,
        "old .bin": model.old_bin.url if model.old_bin else "",
        "serve it": f"turbopilot serve {model.alias}",
    }
    for name, value in lines.items():
        if value:
            console.result(f"{name:<12}{value}")
