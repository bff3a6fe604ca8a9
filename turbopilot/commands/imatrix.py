"""`turbopilot imatrix`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbopilot.app.cached_artifacts import DEFAULT_CHUNKS, DEFAULT_TEXT, beside
from turbopilot.base.errors import InvalidInput
from turbopilot.base.option_values import number_or_auto
from turbopilot.render import console

if TYPE_CHECKING:
    from quantize.imatrix import Imatrix


def imatrix(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A GGUF file of any type, a checkpoint's folder, or a name (turbopilot models); with :Q8_0 behind "
            "a name where F16 does not fit into memory.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="File to write. Default: MODEL's name with -imatrix.gguf."
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text",
            help="A text to read, like what the model will be used for; several are read one after another. "
            "Default: code in many languages, which comes with turbopilot.",
            show_default=False,
        ),
    ] = None,
    chunks: Annotated[
        int, typer.Option("--chunks", min=0, help="Read no more than so many. 0: all of the text.")
    ] = DEFAULT_CHUNKS,
    ctx: Annotated[
        int, typer.Option("--ctx", min=2, help="Tokens of a chunk, which the model sees at once.")
    ] = 512,
    process_output: Annotated[
        bool,
        typer.Option(
            "--process-output", help="The output head too, which quantizers seldom make small."
        ),
    ] = False,
    threads: Annotated[int, typer.Option("-t", "--threads", min=0, help="0: all cores.")] = 0,
    n_gpu_layers: Annotated[
        str,
        typer.Option(
            "--ngl",
            "--n-gpu-layers",
            help="Layers to compute on the GPU: a number, or auto: all where there is a GPU.",
        ),
    ] = "auto",
    in_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--in-file",
            help="An earlier matrix of the model to merge with, also an old .dat; several times for several. "
            "Without MODEL, only these are merged, into --output.",
            show_default=False,
        ),
    ] = None,
    show: Annotated[
        bool,
        typer.Option("--show", help="MODEL is a matrix (.gguf or .dat): show its figures."),
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="With --show: a line for each layer, not each weight.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.")
    ] = False,
) -> None:
    """Find out which inputs of each weight matter, so that quantizing spends its bits on them.

    The model reads a text, and the mean square of what comes into each weight is noted: an importance matrix.
    It makes types below 5 bits better, the more the smaller they are; IQ1, IQ2 and IQ3_XXS cannot be made without
    one. From Q5_K_M on it changes next to nothing.

    By default 100 chunks are read, 51,200 tokens. That takes as long as a prompt of that length does: 4 minutes
    where a prompt is read at 200 tokens a second. It can be stopped: the same command goes on from there.

    The file is llama-imatrix's: llama-quantize reads it as well.

    Example: turbopilot imatrix codegen-f16.gguf

    Example: turbopilot imatrix qwen2.5-coder-1.5b --text mycode.txt --chunks 200

    Example: turbopilot imatrix --show codegen-imatrix.gguf
    """
    if show:
        from turbopilot.render.imatrix import show_matrix

        if not model:
            raise InvalidInput("--show: of which matrix?", hint="turbopilot imatrix --show FILE")
        show_matrix(Path(model).expanduser(), layers=layers, as_json=as_json)
        return
    from quantize.imatrix import gather, read_imatrix, resume_path
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.render.imatrix import show_report

    others = [read_imatrix(path) for path in in_file or ()]
    if model is None:
        _merge_only(in_file or [], others, output, force=force, as_json=as_json)
        return
    words, dataset = _read_texts(text or [])
    layers_on_gpu = number_or_auto("--ngl", n_gpu_layers, least=0)
    path = resolve_gguf(model, type_name="F16")
    target = output or beside(model, path, "imatrix")
    try:
        with console.progress("imatrix") as progress:
            report = gather(
                path, target, words, dataset=dataset, chunks=chunks or None, chunk_size=ctx, threads=threads,
                n_gpu_layers=layers_on_gpu, process_output=process_output, others=others, force=force,
                progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        if (kept := resume_path(target)).exists():
            console.info(f"{kept}: what has been gathered; the same command goes on from there")
        raise
    if as_json:
        console.emit_json({**asdict(report), "path": str(report.path), "model": str(report.model)})
    else:
        show_report(report)


def _merge_only(
    paths: list[Path],
    matrices: list[Imatrix],
    output: Path | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    from quantize.imatrix import merge, write_imatrix
    from turbopilot.base.atomic import check_output

    if not matrices or output is None:
        raise InvalidInput(
            "a model is needed, or matrices to merge",
            hint="turbopilot imatrix MODEL, or turbopilot imatrix --in-file A --in-file B -o FILE",
        )
    check_output(output, force=force, inputs=tuple(paths))
    merged = merge(matrices)
    write_imatrix(output, merged)
    if as_json:
        console.emit_json(
            {
                "path": str(output), "merged": [str(p) for p in paths], "n_chunks": merged.n_chunks,
                "chunk_size": merged.chunk_size, "n_entries": len(merged.entries),
            }
        )  # fmt: skip
    else:
        console.result(f"{output}: {len(merged.entries):,} weights, {merged.n_chunks:,} chunks")


def _read_texts(paths: list[Path]) -> tuple[str, str]:
    """The text to read, and its name."""
    if not paths:
        from turbopilot.corpus import calibration_text

        return calibration_text(), DEFAULT_TEXT
    parts = []
    for path in paths:
        if not path.is_file():
            raise InvalidInput(f"{path}: no such file", hint="give a text file with --text")
        parts.append(path.read_text("utf-8", errors="replace"))
    return "\n".join(parts), ", ".join(path.name for path in paths)
