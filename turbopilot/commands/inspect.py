"""`turbopilot inspect`."""

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
        help="A GGUF (the first part of a split one), a checkpoint's folder, a .safetensors or a PyTorch .bin.",
    )]
    tensors: Annotated[bool, typer.Option(
        "--tensors", help="List every tensor: name, shape, type, size, offset.",
    )] = False
    metadata: Annotated[bool, typer.Option(
        "--metadata", help="List every key of the metadata, or of a checkpoint's config.json.",
    )] = False
    as_json: AsJson = False
# fmt: on


@takes(InspectArguments)
def inspect(given: InspectArguments) -> None:
    """Describe a model file or checkpoint: shape, sizes, tokenizer, origin.

    For a checkpoint, also report whether it converts, and why not. Only headers are read, and no code is run.
    Only a GGUF with a certificate of turbopilot verify is read whole, to check that it is unchanged.

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
