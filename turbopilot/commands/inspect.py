"""`turbopilot inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from turbopilot.render import console


def inspect(
    file: Annotated[
        str,
        typer.Argument(
            help="A GGUF (of a split one, the first part), a checkpoint's folder, a .safetensors or a PyTorch .bin."
        ),
    ],
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor: name, shape, type, size, offset.")
    ] = False,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="List every key (of a checkpoint: of config.json).")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON object.")
    ] = False,
) -> None:
    """Describe a model's file: shape, sizes, tokenizer, origin.

    Of a checkpoint, also whether it converts, and why not. Only headers are read, and nothing is run. Only a
    GGUF with a certificate of turbopilot verify is read whole: to check that it is still the verified file.

    Example: turbopilot inspect codegen-q4_k_m.gguf

    Example: turbopilot inspect ./codegen-350M-mono --tensors
    """
    from turbopilot.app.certificates import state_of
    from turbopilot.app.inspection import describe
    from turbopilot.app.resolve import resolve_any
    from turbopilot.render import inspect as text

    found = describe(resolve_any(file))
    state = state_of(found.path, console.REPORTER) if found.kind == "gguf" else "none"
    if as_json:
        console.emit_json(text.plain(found, state))
    else:
        text.show(found, state, tensors=tensors, metadata=metadata)
