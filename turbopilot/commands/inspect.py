"""The `turbopilot inspect` command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from turbopilot.commands.verb import AsJson, takes
from turbopilot.render import console


# fmt: off
@dataclass(frozen=True, slots=True)
class InspectArguments:
    """Arguments of `turbopilot inspect`."""

    file: Annotated[str, typer.Argument(
        help="GGUF file (of a split model, the first part), checkpoint folder, .safetensors file or PyTorch .bin "
        "file.",
    )]
    tensors: Annotated[bool, typer.Option(
        "--tensors", help="List every tensor: name, shape, type, size, offset.",
    )] = False
    metadata: Annotated[bool, typer.Option(
        "--metadata", help="List every metadata key, or every key of a checkpoint's config.json.",
    )] = False
    as_json: AsJson = False
# fmt: on


@takes(InspectArguments)
def inspect(given: InspectArguments) -> None:
    """Describe a model file or checkpoint: shape, tokenizer, origin.

    For a checkpoint, also report whether it can be converted and, if not, why. Only headers are read, and no code is
    run. A GGUF that turbopilot verify has signed is read completely, to check that it has not changed since.

    Example: turbopilot inspect codegen-q4_k_m.gguf

    Example: turbopilot inspect ./codegen-350M-mono --tensors
    """
    from turbopilot.app.certificates import state_of
    from turbopilot.app.inspection import describe
    from turbopilot.app.resolve import resolve_any
    from turbopilot.render import inspect as text

    found = describe(resolve_any(given.file))
    state = state_of(found.path, console.REPORTER) if found.kind == "gguf" else "none"
    if given.as_json:
        console.emit_json(text.plain(found, state))
    else:
        text.show(found, state, tensors=given.tensors, metadata=given.metadata)
