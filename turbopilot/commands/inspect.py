"""`turbopilot inspect`."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from turbopilot.base.errors import InvalidInput
from turbopilot.render import console

if TYPE_CHECKING:
    from converters.inspect import CheckpointDescription, WeightsDescription
    from turbopilot.formats.gguf.description import GgufDescription

    Description: TypeAlias = "GgufDescription | CheckpointDescription | WeightsDescription"

LISTED = 8  # elements of an array that are shown whole


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
    """Show what a model's file says of itself: shape, sizes, tokenizer, origin.

    Of a checkpoint, also whether it converts, and why not. Only headers are read, so that the largest
    file answers at once, and nothing of it is run. Only a GGUF with a certificate of turbopilot verify is
    read whole: to say whether it is still the file that was verified.

    Example: turbopilot inspect codegen-q4_k_m.gguf

    Example: turbopilot inspect ./codegen-350M-mono --tensors
    """
    from turbopilot.app.certificates import state_of
    from turbopilot.app.resolve import resolve_any
    from turbopilot.render import inspect as text

    kind, found = _describe(resolve_any(file))
    state = state_of(found.path, console.REPORTER) if kind == "gguf" else "none"
    if as_json:
        whole = asdict(replace(found, metadata={}))
        if kind == "gguf":
            whole["certificate"] = {"state": state, **(whole["certificate"] or {})}
        said = {k: _short(v) for k, v in found.metadata.items()}
        console.emit_json(_plain({"kind": kind, **whole, "metadata": said}))
        return
    for line in text.lines(found, state):
        console.result(line)
    text.types_table(found)
    if tensors:
        text.tensors_table(found)
    if metadata:
        for key, value in found.metadata.items():
            console.result(f"{key} = {text.value(_short(value))}")


def _describe(path: Path) -> tuple[str, Description]:
    """What it is, by its content: "gguf", "checkpoint", "safetensors" or "pytorch"; and what it says.

    Raises:
        InvalidInput: it is none of these.
        CorruptModel, CorruptCheckpoint: it is one of them, and damaged.
    """
    if path.is_dir():
        ggufs = sorted(p.name for p in path.glob("*.gguf"))
        if ggufs and not (path / "config.json").is_file():
            raise InvalidInput(
                f"{path}: is a folder of GGUF files", hint=f"give one of them: {path / ggufs[0]}"
            )
        from converters.inspect import describe_checkpoint

        return "checkpoint", describe_checkpoint(path)
    with path.open("rb") as f:
        start = f.read(9)
    if start[:4] == b"GGUF" or path.suffix == ".gguf":
        from turbopilot.formats.gguf.description import describe_gguf

        return "gguf", describe_gguf(path)
    from converters.inspect import describe_weights
    from converters.legacy_ggml import is_old

    if is_old(path):
        raise InvalidInput(
            f"{path}: is an old ggml .bin, from before GGUF",
            hint=f"make a GGUF of it first: turbopilot convert {path}",
        )
    if path.suffix == ".safetensors" or start[5:] == b"\0\0\0{":
        return "safetensors", describe_weights(path, "safetensors")
    if path.suffix in (".bin", ".pt", ".pth"):
        return "pytorch", describe_weights(path, "pytorch")
    raise InvalidInput(
        f"{path}: is neither a GGUF nor a file of weights (it begins with {start[:4]!r})",
        hint="give a .gguf file, a checkpoint's folder, a .safetensors file or a PyTorch .bin",
    )


def _short(value: Any) -> Any:
    """A long array as its length and its beginning."""
    if isinstance(value, list) and len(value) > LISTED:
        return {"length": len(value), "first": value[:LISTED]}
    return value


def _plain(value: Any) -> Any:
    """The same in what JSON has: no paths, no NaN, no bytes that are no UTF-8."""
    if isinstance(value, dict):
        return {_plain(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (str, Path)):
        return str(value).encode("utf-8", "replace").decode("utf-8")
    return value
