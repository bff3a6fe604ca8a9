"""The `turbopilot models` command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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

    name: Annotated[str, typer.Argument(help="Name or owner/name of one model to show in detail.")] = ""
    fits: Annotated[str, typer.Option(
        "--fits", help="Show only models that fit in this much main memory, such as 8GiB, without a GPU.",
    )] = ""
    fim: Annotated[bool, typer.Option("--fim", help="Show only models that support fill-in-the-middle.")] = False
    language: Annotated[str, typer.Option("--language", help="Show only models for this programming language.")] = ""
    verified: Annotated[list[Path] | None, typer.Option(
        "--verified", metavar="FILE", help="Instead, show the certificates of model files (turbopilot verify --sign), "
        "and whether the files have changed since. Can be repeated.",
    )] = None
    as_json: AsJson = False
# fmt: on


@takes(ModelsArguments)
def models(given: ModelsArguments) -> None:
    """List the known models and the types that fit this machine.

    A type fits if the server would find room for it: as many layers as possible on GPUs, the rest in main memory. The
    memory shown is the total for serving: the model file, the KV cache of the context (8192 tokens, or the
    model's maximum if it is smaller) and llama.cpp's buffers. Other checkpoints of the same families work too; give
    owner/name.

    Example: turbopilot models --fits 8GiB --fim

    Example: turbopilot models santacoder

    Example: turbopilot models --verified one.gguf --verified two.gguf
    """
    if given.verified:
        _show_certificates(given.verified, as_json=given.as_json)
        return
    from turbopilot import catalog
    from turbopilot.base.sizes import parse_size
    from turbopilot.llama.model_memory import ModelMemory, usable_memory
    from turbopilot.render import models as text

    name, fits, language = given.name, given.fits, given.language.lower()
    memory = ModelMemory(parse_size("--fits", fits)) if fits else usable_memory()
    found = [
        m
        for m in ([_known(name)] if name else catalog.MODELS)
        if (not fits or m.best_type(memory))
        and (not given.fim or m.fim)
        and (not language or language in map(str.lower, m.languages))
    ]
    if given.as_json:
        console.emit_json({
            "memory": memory.main,
            "devices": [{"name": d.name, "free": d.free} for d in memory.devices],
            "models": [text.plain(m, memory) for m in found],
        })  # fmt: skip
    elif not found:
        console.info("no known model matches these filters; remove a filter")
    elif name:
        text.in_full(found[0], memory)
    else:
        text.table(found, memory)


def _show_certificates(paths: Sequence[Path], *, as_json: bool) -> None:
    from turbopilot.app.certificates import certified
    from turbopilot.render import models as text

    found = [certified(path, console.REPORTER) for path in paths]
    if as_json:
        console.emit_json({"files": [text.certificate_json(c) for c in found]})
    else:
        text.certificates(found)


def _known(name: str) -> KnownModel:
    from turbopilot import catalog

    if model := catalog.find(name):
        return model
    hint = did_you_mean(name, [m.alias for m in catalog.MODELS], "turbopilot models lists them")
    raise ModelNotFound(f"{name}: unknown model name", hint=hint)
