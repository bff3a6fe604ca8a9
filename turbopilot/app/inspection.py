"""Description of a model file, a file of weights or a checkpoint folder, for `turbopilot inspect`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from serve.prompt.layout_choice import choose_layouts
from turbopilot.base.errors import InvalidInput
from turbopilot.catalog import recognize
from turbopilot.formats.gguf.description import GgufDescription, describe_gguf
from turbopilot.formats.old_ggml import is_old

if TYPE_CHECKING:
    from converters.inspect import CheckpointDescription, WeightsDescription

    Description: TypeAlias = GgufDescription | CheckpointDescription | WeightsDescription


def describe(path: Path) -> Description:
    """Return the description of a GGUF file, a checkpoint folder or a file of weights.

    Raises:
        InvalidInput: the path is none of these.
        CorruptModel, CorruptCheckpoint: the file is damaged.
    """
    if path.is_dir():
        return _describe_folder(path)
    with path.open("rb") as f:
        start = f.read(9)
    if start[:4] == b"GGUF" or path.suffix == ".gguf":
        return _describe_gguf(path)
    if is_old(path):
        raise InvalidInput(
            f"{path}: is an old ggml .bin file, not a GGUF",
            hint=f"convert it to GGUF first: turbopilot convert {path}",
        )
    from converters.inspect import describe_weights

    if path.suffix == ".safetensors" or start[5:] == b"\0\0\0{":
        return describe_weights(path, "safetensors")
    if path.suffix in (".bin", ".pt", ".pth"):
        return describe_weights(path, "pytorch")
    raise InvalidInput(
        f"{path}: is neither a GGUF nor a file of weights (starts with {start[:4]!r})",
        hint="give a .gguf file, a checkpoint folder, a .safetensors file or a PyTorch .bin file",
    )


def _describe_gguf(path: Path) -> GgufDescription:
    """Describe a GGUF, with the layout in which `serve` builds its prompts by default."""
    found = describe_gguf(path)
    known = recognize(found.name or path.stem, found.origin.repository)
    fim = choose_layouts(found.metadata, known=known.fim if known else "")
    layout = fim.chosen.text if fim else ""
    return replace(found, tokenizer=replace(found.tokenizer, fim_layout=layout))


def _describe_folder(path: Path) -> CheckpointDescription:
    ggufs = sorted(p.name for p in path.glob("*.gguf"))
    if ggufs and not (path / "config.json").is_file():
        raise InvalidInput(
            f"{path}: is a folder of GGUF files", hint=f"give one of them: {path / ggufs[0]}"
        )
    from converters import is_adapter_folder
    from converters.inspect import describe_checkpoint

    if is_adapter_folder(path):
        raise InvalidInput(
            f"{path}: is a LoRA adapter, not a checkpoint",
            hint=f"convert it, and inspect the result: turbopilot convert {path} --base MODEL",
        )
    return describe_checkpoint(path)
