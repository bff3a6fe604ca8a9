"""`turbopilot convert`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from turbopilot import console
from turbopilot.errors import InvalidInput, did_you_mean


def convert(
    source: Annotated[
        str,
        typer.Argument(help="Folder of a Hugging Face checkpoint, or 'demo' for the bundled one."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write. Default: SOURCE's name and type."),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Type of the matrices: f16 or f32. Vectors stay F32.")
    ] = "f16",
    to: Annotated[
        str,
        typer.Option(help="gguf, or gptj: a Hugging Face GPT-J checkpoint (from CodeGen only)."),
    ] = "gguf",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, write nothing.")
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

    Reads safetensors a few rows at a time, so a model larger than memory converts. Everything is checked
    before a byte is written, and the file appears whole or not at all.

    Example: turbopilot convert ./codegen-350M-mono -o codegen.gguf
    """
    from converters import convert as convert_to_gguf
    from converters import dry_run as plan_only
    from converters import export_gptj
    from turbopilot.commands.resolve import DEMO, resolve_checkpoint

    if to not in ("gguf", "gptj"):
        raise InvalidInput(f"--to {to}: no such target", hint=did_you_mean(to, ["gguf", "gptj"]))
    folder = resolve_checkpoint(source)
    if dry_run:
        text = plan_only(folder, dtype=dtype)
        if as_json:
            console.emit_json({"plan": text.splitlines()})
        else:
            console.result(text.rstrip())
        return
    name = "turbopilot-demo" if source == DEMO else folder.resolve().name
    with console.progress("convert") as progress:
        if to == "gptj":
            report = export_gptj(
                folder, output or Path(f"{name}-gptj"), force=force, progress=progress
            )
        else:
            target = output or Path(f"{name}-{dtype.lower()}.gguf")
            report = convert_to_gguf(
                folder, target, dtype=dtype, force=force, name=name, progress=progress
            )
    if as_json:
        console.emit_json({**asdict(report), "path": str(report.path)})
        return
    console.result(
        f"{report.path}: {report.architecture} → {report.gguf_architecture}, {report.n_tensors} tensors, "
        f"{report.n_weights / 1e6:,.1f} million weights, {report.dtype}, "
        f"{console.size(report.n_bytes)}, {report.seconds:.1f} s"
    )
    if to == "gguf":
        fim = "with" if report.has_fim else "without"
        console.result(
            f"tokenizer: {report.n_tokens:,} tokens, pre-tokenizer {report.pre_tokenizer}, {fim} fill-in-the-middle"
        )
        console.info(f"next: turbopilot verify {report.path} --against {source}")
