"""`turbopilot convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.render import console

Source = Annotated[
    str,
    typer.Argument(
        help="A checkpoint: its folder, a known model's name, or owner/name on the Hub; or an old ggml "
        ".bin; or 'demo' for the bundled one."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="File to write. Default: SOURCE's name and type."),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Type of the matrices: f16, bf16, f32, q8_0, or auto (as in SOURCE). Vectors stay F32. "
        "Default: f16; an old .bin is copied as it is.",
        show_default=False,
    ),
]
To = Annotated[
    str, typer.Option(help="gguf, or gptj: a Hugging Face GPT-J checkpoint (from CodeGen only).")
]
SplitMaxSize = Annotated[
    str,
    typer.Option(
        help="Write parts of at most this size (as 4GB), which llama.cpp loads by the first one."
    ),
]
ModelType = Annotated[
    str,
    typer.Option(
        "-m",
        "--model-type",
        help="Of an old .bin, where it leaves a doubt: codegen, starcoder, wizardcoder, stablecode.",
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(help="Of an old .bin whose vocabulary lost bytes: the original's folder."),
]
VocabOnly = Annotated[
    bool,
    typer.Option("--vocab-only", help="Write only the metadata and the tokenizer, no weights."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan and the sizes, write nothing.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite the output, and keep NaN and infinite weights.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def convert(
    source: Source,
    output: Output = None,
    dtype: Dtype = "",
    to: To = "gguf",
    split_max_size: SplitMaxSize = "",
    model_type: ModelType = "",
    tokenizer: Tokenizer = None,
    vocab_only: VocabOnly = False,
    dry_run: DryRun = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint into a GGUF file that llama.cpp runs.

    Reads the weights a few rows at a time, so a model larger than memory converts. Everything is checked
    before a byte is written, and the file appears whole or not at all.

    Example: turbopilot convert ./codegen-350M-mono -o codegen.gguf

    Example: turbopilot convert ./starcoder --dtype auto --split-max-size 8GB

    Example: turbopilot convert santacoder-q4_0.bin
    """
    import converters
    from turbopilot.app.resolve import DEMO, resolve_checkpoint
    from turbopilot.base.sizes import parse_size
    from turbopilot.render import convert as shown

    if to not in ("gguf", "gptj"):
        raise InvalidInput(f"--to {to}: no such target", hint=did_you_mean(to, ["gguf", "gptj"]))
    folder = resolve_checkpoint(source, console.REPORTER, old_files=True)
    name = "turbopilot-demo" if source == DEMO else _name(source, folder)
    options = converters.ConversionOptions(
        vocab_only=vocab_only, name=name, force=force, model_type=model_type, tokenizer=tokenizer,
        split_max_size=parse_size("--split-max-size", split_max_size) if split_max_size else 0,
    )  # fmt: skip
    if dry_run:
        shown.show_plan(converters.dry_run(folder, options, dtype=dtype), as_json)
        return
    with console.progress("convert") as progress:
        if to == "gptj":
            target = output or Path(f"{name}-gptj")
            report = converters.export_gptj(folder, target, force=force, progress=progress)
        else:
            kind = "vocab" if vocab_only else dtype.lower() or ("" if folder.is_file() else "f16")
            target = output or Path(f"{name}-{kind}".rstrip("-") + ".gguf")
            report = converters.convert(folder, target, options, dtype=dtype, progress=progress)
    shown.show(report, as_json)
    if to == "gguf" and not as_json and not vocab_only and folder.is_dir():
        console.info(f"next: turbopilot verify {report.path} --against {source}")


def _name(source: str, folder: Path) -> str:
    """What to call it: the folder's or file's name, or the repository's, whose folder has a commit for a name."""
    if Path(source).expanduser().exists():
        return folder.resolve().name.removesuffix(".bin")
    return source.rstrip("/").rpartition("/")[2]
