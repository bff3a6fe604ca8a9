"""`turbopilot convert`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.render import console


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint: its folder, a known model's name, or owner/name on the Hub; or an old ggml "
            ".bin; or 'demo' for the bundled one."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write. Default: SOURCE's name and type."),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="Type of the matrices: f16, bf16, f32, q8_0, or auto (as in SOURCE). Vectors stay F32. "
            "Default: f16; an old .bin is copied as it is.",
            show_default=False,
        ),
    ] = "",
    to: Annotated[
        str,
        typer.Option(help="gguf, or gptj: a Hugging Face GPT-J checkpoint (from CodeGen only)."),
    ] = "gguf",
    split_max_size: Annotated[
        str,
        typer.Option(
            "--split-max-size",
            help="Write parts of at most this size (as 4GB), which llama.cpp loads by the first one.",
        ),
    ] = "",
    model_type: Annotated[
        str,
        typer.Option(
            "-m",
            "--model-type",
            help="Of an old .bin, where it leaves a doubt: codegen, starcoder, wizardcoder, stablecode.",
        ),
    ] = "",
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Of an old .bin whose vocabulary lost bytes: the original's folder."),
    ] = None,
    vocab_only: Annotated[
        bool,
        typer.Option("--vocab-only", help="Write only the metadata and the tokenizer, no weights."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the sizes, write nothing.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite the output, and keep NaN and infinite weights."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.")
    ] = False,
) -> None:
    """Turn a checkpoint into a GGUF file that llama.cpp runs.

    Reads the weights a few rows at a time, so a model larger than memory converts. Everything is checked
    before a byte is written, and the file appears whole or not at all.

    Example: turbopilot convert ./codegen-350M-mono -o codegen.gguf

    Example: turbopilot convert ./starcoder --dtype auto --split-max-size 8GB

    Example: turbopilot convert santacoder-q4_0.bin
    """
    from converters import convert as convert_to_gguf
    from converters import dry_run as plan_only
    from converters import export_gptj
    from turbopilot.app.resolve import DEMO, resolve_checkpoint
    from turbopilot.base.sizes import parse_size

    if to not in ("gguf", "gptj"):
        raise InvalidInput(f"--to {to}: no such target", hint=did_you_mean(to, ["gguf", "gptj"]))
    folder = resolve_checkpoint(source, console.REPORTER, old_files=True)
    part_size = parse_size("--split-max-size", split_max_size) if split_max_size else 0
    if dry_run:
        text = plan_only(
            folder, dtype=dtype, vocab_only=vocab_only, model_type=model_type, tokenizer=tokenizer
        )
        if as_json:
            console.emit_json({"plan": text.splitlines()})
        else:
            console.result(text.rstrip())
        return
    name = "turbopilot-demo" if source == DEMO else _name(source, folder)
    with console.progress("convert") as progress:
        if to == "gptj":
            report = export_gptj(
                folder, output or Path(f"{name}-gptj"), force=force, progress=progress
            )
        else:
            kind = "vocab" if vocab_only else dtype.lower() or ("" if folder.is_file() else "f16")
            report = convert_to_gguf(
                folder, output or Path(f"{name}-{kind}".rstrip("-") + ".gguf"), dtype=dtype,
                split_max_size=part_size, vocab_only=vocab_only, model_type=model_type, tokenizer=tokenizer,
                force=force, name=name, progress=progress,
            )  # fmt: skip
    if as_json:
        console.emit_json({**asdict(report), "path": str(report.path)})
        return
    files = f" ({report.n_files} files)" if report.n_files > 1 else ""
    console.result(
        f"{report.path}{files}: {report.architecture} → {report.gguf_architecture}, {report.n_tensors} tensors, "
        f"{report.n_weights / 1e6:,.1f} million weights, {report.dtype}, "
        f"{console.size(report.n_bytes)}, {report.seconds:.1f} s"
    )
    if to == "gguf":
        fim = "with" if report.has_fim else "without"
        console.result(
            f"tokenizer: {report.n_tokens:,} tokens, pre-tokenizer {report.pre_tokenizer} ({report.pre_origin}), "
            f"{fim} fill-in-the-middle"
        )
        if not vocab_only and folder.is_dir():
            console.info(f"next: turbopilot verify {report.path} --against {source}")


def _name(source: str, folder: Path) -> str:
    """What to call it: the folder's or file's name, or the repository's, whose folder has a commit for a name."""
    if Path(source).expanduser().exists():
        return folder.resolve().name.removesuffix(".bin")
    return source.rstrip("/").rpartition("/")[2]
