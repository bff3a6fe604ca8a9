"""`turbopilot quantize`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from turbopilot import console
from turbopilot.errors import InvalidInput


def quantize(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="An F32, F16 or BF16 GGUF file, a checkpoint's folder, or a name (turbopilot models).",
        ),
    ] = None,
    type_name: Annotated[
        str | None, typer.Argument(metavar="TYPE", help="Q4_0, Q4_K_M, Q8_0 … (see --list).")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write. Default: MODEL's name with the type."),
    ] = None,
    imatrix: Annotated[
        str,
        typer.Option(
            metavar="FILE|auto",
            help="An importance matrix, which says where rounding hurts least (turbopilot imatrix); auto gathers one "
            "from MODEL, once. Worth it below 5 bits.",
            show_default=False,
        ),
    ] = "",
    tensor_types: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor-type",
            metavar="REGEX=TYPE",
            help="Tensors whose name matches get this type, e.g. 'ffn_down=q6_k'. Repeatable; the first match counts.",
        ),
    ] = None,
    output_type: Annotated[
        str,
        typer.Option(
            metavar="TYPE", help="Of the output head (output.weight).", show_default=False
        ),
    ] = "",
    embedding_type: Annotated[
        str,
        typer.Option(
            metavar="TYPE",
            help="Of the token embedding, which is the head too where a model shares it.",
            show_default=False,
        ),
    ] = "",
    pure: Annotated[
        bool,
        typer.Option("--pure", help="Every matrix in the one type, without llama.cpp's mixture."),
    ] = False,
    keep_split: Annotated[
        bool, typer.Option("--keep-split", help="A model in several files stays in as many.")
    ] = False,
    allow_requantize: Annotated[
        bool,
        typer.Option(
            "--allow-requantize",
            help="Quantize what is quantized already. It loses twice: start from F16 where you can.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show every tensor's type and exact size; write nothing."),
    ] = False,
    threads: Annotated[int, typer.Option("-t", "--threads", min=0, help="0: all cores.")] = 0,
    list_types: Annotated[bool, typer.Option("--list", help="Show all types and leave.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.")
    ] = False,
) -> None:
    r"""Make a GGUF file smaller, with llama.cpp's own quantizer.

    Fewer bits per weight take less memory and lose more; turbopilot verify says how much.

    Example: turbopilot quantize codegen-f16.gguf Q4_K_M

    Example: turbopilot quantize codegen-350M-mono Q4_0 --imatrix auto

    Example: turbopilot quantize codegen-f16.gguf Q4_K_S --tensor-type 'blk\.0\.=q8_0' --dry-run
    """
    from quantize import Options, find_recipe, find_tensor_type, parse_override, plan
    from quantize import quantize as run_quantize
    from turbopilot.commands import quantize_text
    from turbopilot.commands.made import cache_folder
    from turbopilot.commands.resolve import resolve_gguf

    if list_types:
        quantize_text.types(as_json=as_json)
        return
    if source is None or type_name is None:
        raise InvalidInput(
            "a file and a type are needed",
            hint="turbopilot quantize FILE.gguf Q4_K_M; --list shows the types",
        )
    recipe = find_recipe(type_name)
    overrides = tuple(parse_override(text) for text in tensor_types or ())
    head = find_tensor_type(output_type, "--output-type") if output_type else ""
    embedding = find_tensor_type(embedding_type, "--embedding-type") if embedding_type else ""
    path = resolve_gguf(source, type_name="F16")
    options = Options(
        overrides=overrides,
        output_type=head,
        embedding_type=embedding,
        pure=pure,
        keep_split=keep_split,
        allow_requantize=allow_requantize,
        imatrix=_matrix(imatrix, path, threads),
        threads=threads,
    )
    if dry_run:
        quantize_text.plan(plan(path, recipe.name, options), as_json=as_json)
        return
    target = output or default_output(source, path, recipe.name.lower())
    with console.progress("quantize") as progress:
        report = run_quantize(
            path,
            target,
            recipe.name,
            options,
            force=force,
            memory=cache_folder(),
            progress=progress,
        )
    if as_json:
        paths = {"source": str(report.source), "path": str(report.path)}
        console.emit_json({**asdict(report), **paths})
    else:
        quantize_text.result(report)


def _matrix(given: str, model: Path, threads: int) -> Path | None:
    """The file of --imatrix; gathered, once, for `auto`."""
    if not given:
        return None
    if given != "auto":
        return Path(given).expanduser()
    raise InvalidInput("--imatrix auto: not there yet")


def default_output(source: str, path: Path, suffix: str) -> Path:
    """codegen-f16.gguf → codegen-q4_0.gguf, in the same folder; of a name or a folder, in this one."""
    from turbopilot.gguf_split import siblings

    if not Path(source).expanduser().is_file():
        return Path(f"{Path(source).name}-{suffix}.gguf")
    stem = path.stem
    if siblings(path):
        stem = stem[: -len("-00001-of-00001")]
    for ending in ("-f16", "-f32", "-bf16"):
        stem = stem.removesuffix(ending)
    return path.with_name(f"{stem}-{suffix}.gguf")
