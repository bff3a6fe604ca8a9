"""`turbopilot imatrix`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from turbopilot.app.cached_artifacts import DEFAULT_CHUNKS, DEFAULT_TEXT, beside
from turbopilot.base.errors import InvalidInput
from turbopilot.base.option_values import number_or_auto
from turbopilot.commands.verb import AsJson, Force, NGpuLayers, Threads, takes
from turbopilot.render import console


# fmt: off
@dataclass(frozen=True, slots=True)
class ImatrixArguments:
    """What is typed behind `turbopilot imatrix`."""

    model: Annotated[str | None, typer.Argument(
        metavar="MODEL",
        help="A GGUF file of any type, a checkpoint's folder, or a name (turbopilot models); with :Q8_0 behind a name "
        "where F16 does not fit into memory.",
    )] = None
    output: Annotated[Path | None, typer.Option(
        "-o", "--output", help="File to write. Default: MODEL's name with -imatrix.gguf.",
    )] = None
    text: Annotated[list[Path] | None, typer.Option(
        show_default=False,
        help="A text to read, like what the model will be used for; several are read one after another. Default: code "
        "in many languages, which comes with turbopilot.",
    )] = None
    chunks: Annotated[int, typer.Option(
        min=0, help="Read no more than so many. 0: all of the text.",
    )] = DEFAULT_CHUNKS
    ctx: Annotated[int, typer.Option(min=2, help="Tokens of a chunk, which the model sees at once.")] = 512
    process_output: Annotated[bool, typer.Option(
        "--process-output", help="The output head too, which quantizers seldom make small.",
    )] = False
    threads: Threads = 0
    n_gpu_layers: NGpuLayers = "auto"
    in_file: Annotated[list[Path] | None, typer.Option(
        show_default=False,
        help="An earlier matrix of the model to merge with; several times for several. Without MODEL, only these are "
        "merged, into --output.",
    )] = None
    show: Annotated[bool, typer.Option("--show", help="MODEL is a matrix: show its figures.")] = False
    layers: Annotated[bool, typer.Option(
        "--layers", help="With --show: a line for each layer, not each weight.",
    )] = False
    force: Force = False
    as_json: AsJson = False
# fmt: on


@takes(ImatrixArguments)
def imatrix(given: ImatrixArguments) -> None:
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
    if given.show:
        _show(given)
    elif given.model is None:
        _merge(given)
    else:
        _gather(given, given.model)


def _show(given: ImatrixArguments) -> None:
    from quantize.imatrix import read_imatrix
    from turbopilot.render.imatrix import show_matrix

    if not given.model:
        raise InvalidInput("--show: of which matrix?", hint="turbopilot imatrix --show FILE")
    path = Path(given.model).expanduser()
    show_matrix(path, read_imatrix(path), layers=given.layers, as_json=given.as_json)


def _merge(given: ImatrixArguments) -> None:
    from quantize.imatrix import merge_files
    from turbopilot.render.imatrix import show_merged

    if not given.in_file or given.output is None:
        raise InvalidInput(
            "a model is needed, or matrices to merge",
            hint="turbopilot imatrix MODEL, or turbopilot imatrix --in-file A --in-file B -o FILE",
        )
    merged = merge_files(given.in_file, given.output, force=given.force)
    show_merged(given.output, given.in_file, merged, as_json=given.as_json)


def _gather(given: ImatrixArguments, model: str) -> None:
    from quantize.imatrix import GatherOptions, gather, read_imatrix, resume_path
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.render.imatrix import show_report

    text, dataset = _read_texts(given.text or ())
    options = GatherOptions(
        dataset,
        chunks=given.chunks or None,
        chunk_size=given.ctx,
        threads=given.threads,
        n_gpu_layers=number_or_auto("--ngl", given.n_gpu_layers, least=0),
        process_output=given.process_output,
        others=tuple(map(read_imatrix, given.in_file or ())),
    )
    path = resolve_gguf(model, console.REPORTER, type_name="F16")
    target = given.output or beside(model, path, "imatrix")
    try:
        with console.progress("imatrix") as progress:
            report = gather(path, target, text, options, force=given.force, progress=progress)
    except KeyboardInterrupt:
        if (kept := resume_path(target)).exists():
            console.info(f"{kept}: what has been gathered; the same command goes on from there")
        raise
    show_report(report, as_json=given.as_json)


def _read_texts(paths: Sequence[Path]) -> tuple[str, str]:
    """Return the text of several files, or the bundled one, and its name."""
    if not paths:
        from turbopilot.corpus import calibration_text

        return calibration_text(), DEFAULT_TEXT
    parts = []
    for path in paths:
        if not path.is_file():
            raise InvalidInput(f"{path}: no such file", hint="give a text file with --text")
        parts.append(path.read_text("utf-8", errors="replace"))
    return "\n".join(parts), ", ".join(path.name for path in paths)
