"""The `turbopilot imatrix` command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from serve.device_options import DeviceOptions
from turbopilot.app.cached_artifacts import DEFAULT_CHUNKS, DEFAULT_TEXT, beside
from turbopilot.base.errors import InvalidInput
from turbopilot.commands.verb import AsJson, Devices, Force, Threads, takes
from turbopilot.render import console


# fmt: off
@dataclass(frozen=True, slots=True)
class ImatrixArguments:
    """Arguments of `turbopilot imatrix`."""

    model: Annotated[str | None, typer.Argument(
        metavar="MODEL",
        help="GGUF file of any type, checkpoint folder, or model name (see turbopilot models). If F16 does not fit in "
        "memory, use NAME:Q8_0.",
    )] = None
    output: Annotated[Path | None, typer.Option(
        "-o", "--output", help="File to write. Default: MODEL's name plus -imatrix.gguf.",
    )] = None
    text: Annotated[list[Path] | None, typer.Option(
        show_default=False,
        help="Text file to run the model on, similar to the text that you will complete. Can be repeated. Default: "
        "the bundled code in many languages.",
    )] = None
    chunks: Annotated[int, typer.Option(
        min=0, help="Maximum number of chunks to read; 0 reads the whole text.",
    )] = DEFAULT_CHUNKS
    ctx: Annotated[int, typer.Option(min=2, help="Tokens per chunk.")] = 512
    process_output: Annotated[bool, typer.Option(
        "--process-output", help="Include the output head, which is rarely quantized to few bits.",
    )] = False
    threads: Threads = 0
    in_file: Annotated[list[Path] | None, typer.Option(
        show_default=False,
        help="Existing matrix of the same model to merge with. Can be repeated. Without MODEL, merge these files into "
        "--output.",
    )] = None
    show: Annotated[bool, typer.Option("--show", help="Show statistics; MODEL is an importance matrix here.")] = False
    layers: Annotated[bool, typer.Option(
        "--layers", help="With --show: one row per layer instead of one per tensor.",
    )] = False
    devices: Devices = DeviceOptions()  # noqa: RUF009 — frozen
    force: Force = False
    as_json: AsJson = False
# fmt: on


@takes(ImatrixArguments)
def imatrix(given: ImatrixArguments) -> None:
    """Compute an importance matrix for more accurate quantization.

    The model is run on a text, and the mean square of each weight's inputs is stored. The matrix improves types below
    5 bits, the smallest ones most. IQ1, IQ2 and IQ3_XXS require one; from Q5_K_M upwards it changes almost nothing.

    By default 100 chunks (51,200 tokens) are read, which takes about 4 minutes at 200 tokens per second. To resume an
    interrupted run, run the same command again.

    The file has llama-imatrix's format, so llama-quantize can read it too.

    Example: turbopilot imatrix codegen-f16.gguf

    Example: turbopilot imatrix qwen2.5-coder-1.5b --text my.txt --chunks 200

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
        raise InvalidInput(
            "--show needs an importance matrix", hint="turbopilot imatrix --show FILE"
        )
    path = Path(given.model).expanduser()
    show_matrix(path, read_imatrix(path), layers=given.layers, as_json=given.as_json)


def _merge(given: ImatrixArguments) -> None:
    from quantize.imatrix import merge_files
    from turbopilot.render.imatrix import show_merged

    if not given.in_file or given.output is None:
        raise InvalidInput(
            "give a model, or matrices to merge",
            hint="turbopilot imatrix MODEL, or turbopilot imatrix --in-file A --in-file B -o FILE",
        )
    merged = merge_files(given.in_file, given.output, force=given.force)
    show_merged(given.output, given.in_file, merged, as_json=given.as_json)


def _gather(given: ImatrixArguments, model: str) -> None:
    from quantize.imatrix import GatherOptions, gather, read_imatrix, resume_path
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.base.atomic import check_output
    from turbopilot.render.imatrix import show_report

    text, dataset = _read_texts(given.text or ())
    options = GatherOptions(
        dataset,
        chunks=given.chunks or None,
        chunk_size=given.ctx,
        threads=given.threads,
        placement=given.devices.wish,
        process_output=given.process_output,
        others=tuple(map(read_imatrix, given.in_file or ())),
    )
    path = resolve_gguf(model, console.REPORTER, type_name="F16")
    target = given.output or beside(model, path, "imatrix")
    check_output(target, force=given.force, inputs=tuple(given.text or ()))
    try:
        with console.progress("imatrix") as progress:
            report = gather(path, target, text, options, force=given.force, progress=progress)
    except KeyboardInterrupt:
        if (kept := resume_path(target)).exists():
            console.info(f"{kept}: partial matrix; run the same command again to resume")
        raise
    show_report(report, as_json=given.as_json)


def _read_texts(paths: Sequence[Path]) -> tuple[str, str]:
    """Return the text of the files, or the bundled text if there are none, and a name for it."""
    if not paths:
        from turbopilot.corpus import calibration_text

        return calibration_text(), DEFAULT_TEXT
    parts = []
    for path in paths:
        if not path.is_file():
            raise InvalidInput(f"{path}: no such file", hint="give a text file with --text")
        parts.append(path.read_text("utf-8", errors="replace"))
    return "\n".join(parts), ", ".join(path.name for path in paths)
