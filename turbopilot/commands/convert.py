"""The `turbopilot convert` command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from turbopilot.base.errors import InvalidInput
from turbopilot.base.option_values import one_of
from turbopilot.commands.verb import AsJson, takes
from turbopilot.render import console


# fmt: off
@dataclass(frozen=True, slots=True)
class ConvertArguments:
    """Arguments of `turbopilot convert`."""

    source: Annotated[str, typer.Argument(
        help="Checkpoint folder, model name (see turbopilot models), owner/name on the Hub, old ggml .bin file, folder "
        "of a PEFT LoRA adapter, or 'demo' for the bundled model.",
    )]
    output: Annotated[Path | None, typer.Option(
        "-o", "--output", help="File to write. Default: named after SOURCE and the type.",
    )] = None
    dtype: Annotated[str, typer.Option(
        show_default=False,
        help="Type of the matrices: f16, bf16, f32, q8_0, or auto to keep SOURCE's. Vectors are always F32. Default: "
        "f16; an old .bin keeps its types; f32 for an adapter.",
    )] = ""
    base: Annotated[str, typer.Option(
        metavar="MODEL", show_default=False,
        help="For an adapter: the checkpoint that it was trained on, a folder or a name as for SOURCE, of which only "
        "config.json is read. Default: the folder that adapter_config.json names.",
    )] = ""
    to: Annotated[str, typer.Option(
        help="Output format: gguf, or gptj for a Hugging Face GPT-J checkpoint (CodeGen models only).",
    )] = "gguf"
    split_max_size: Annotated[str, typer.Option(
        help="Split the output into files of at most this size, such as 4GB. Loading the first file loads them all.",
    )] = ""
    model_type: Annotated[str, typer.Option(
        "-m", "--model-type",
        help="Model type of an old .bin, if it cannot be detected: codegen, starcoder, wizardcoder, stablecode.",
    )] = ""
    tokenizer: Annotated[Path | None, typer.Option(
        help="Folder with the original model's tokenizer, for an old .bin with a damaged vocabulary.",
    )] = None
    vocab_only: Annotated[bool, typer.Option(
        "--vocab-only", help="Write only the metadata and the tokenizer, without weights.",
    )] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the tensors and their sizes; write nothing.")] = False
    rehash: Annotated[bool, typer.Option(
        "--rehash", help="Compute the checksums of files in the Hub's cache again. Default: they are their names.",
    )] = False
    force: Annotated[bool, typer.Option(
        "--force", help="Overwrite the output, and accept NaN and infinite weights.",
    )] = False
    as_json: AsJson = False
# fmt: on


@takes(ConvertArguments)
def convert(given: ConvertArguments) -> None:
    """Convert a checkpoint to a GGUF file that llama.cpp runs.

    The model may be larger than memory: weights are read a few rows at a time. The checkpoint is checked before
    anything is written, and a failed conversion leaves no partial file.

    Example: turbopilot convert ./codegen-350M-mono -o codegen.gguf

    Example: turbopilot convert ./starcoder --dtype auto --split-max-size 8GB

    Example: turbopilot convert santacoder-q4_0.bin

    Example: turbopilot convert ./my-lora --base qwen2.5-coder-1.5b -o my-lora.gguf
    """
    import converters
    from turbopilot.app.resolve import resolve_checkpoint
    from turbopilot.base.sizes import parse_size
    from turbopilot.render import convert as shown

    to = one_of("--to", given.to, ("gguf", "gptj"))
    source, dtype, vocab_only = given.source, given.dtype, given.vocab_only
    folder = resolve_checkpoint(source, console.REPORTER, old_files=True)
    if converters.is_adapter_folder(folder):
        _convert_adapter(given, folder)
        return
    if given.base:
        raise InvalidInput(
            f"--base {given.base}: {folder} is not an adapter", hint="leave --base out"
        )
    name = _name(source, folder)
    split = given.split_max_size
    options = converters.ConversionOptions(
        vocab_only=vocab_only, name=name, force=given.force, rehash=given.rehash, model_type=given.model_type,
        tokenizer=given.tokenizer, split_max_size=parse_size("--split-max-size", split) if split else 0,
    )  # fmt: skip
    if given.dry_run:
        shown.show_plan(converters.dry_run(folder, options, dtype=dtype), given.as_json)
        return
    with console.progress("convert") as progress:
        if to == "gptj":
            target = given.output or Path(f"{name}-gptj")
            report = converters.export_gptj(folder, target, force=given.force, progress=progress)
        else:
            kind = "vocab" if vocab_only else dtype.lower() or ("" if folder.is_file() else "f16")
            target = given.output or Path(f"{name}-{kind}".rstrip("-") + ".gguf")
            report = converters.convert(folder, target, options, dtype=dtype, progress=progress)
    shown.show(report, given.as_json)
    if to == "gguf" and not given.as_json and not vocab_only and folder.is_dir():
        console.info(f"next: turbopilot verify {report.path} --against {source}")


def _convert_adapter(given: ConvertArguments, folder: Path) -> None:
    import converters
    from turbopilot.app.resolve import resolve_base
    from turbopilot.render import convert as shown

    fields = ("vocab_only", "split_max_size", "model_type", "tokenizer")
    extra = [f for f in fields if getattr(given, f)] + ["to"] * (given.to != "gguf")
    if extra:
        flags = ", ".join("--" + f.replace("_", "-") for f in extra)
        raise InvalidInput(f"{flags}: not for an adapter ({folder})", hint="leave it out")
    base = resolve_base(folder, given.base, console.REPORTER)
    if given.dry_run:
        shown.show_plan(converters.adapter_dry_run(folder, base, dtype=given.dtype), given.as_json)
        return
    name = _name(given.source, folder)
    target = given.output or Path(f"{name}-{given.dtype.lower() or 'f32'}.gguf")
    options = converters.ConversionOptions(name=name, force=given.force)
    with console.progress("convert") as progress:
        report = converters.convert_adapter(
            folder, base, target, options, dtype=given.dtype, progress=progress
        )
    shown.show(report, given.as_json)
    if not given.as_json:
        console.info(f"next: turbopilot serve MODEL --lora {report.path}")


def _name(source: str, folder: Path) -> str:
    """Return the model's name, from its folder, file or repository.

    The folder of a downloaded repository is named after its commit, so the repository's name is used instead.
    """
    from turbopilot.app.resolve import DEMO

    if source == DEMO:
        return "turbopilot-demo"
    if Path(source).expanduser().exists():
        return folder.resolve().name.removesuffix(".bin")
    return source.rstrip("/").rpartition("/")[2]
