"""The `turbopilot quantize` command."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.device_options import DeviceOptions, parse_sizes
from turbopilot.app.cached_artifacts import beside, matrix_file
from turbopilot.base.cache_folder import cache_folder
from turbopilot.base.errors import InvalidInput
from turbopilot.base.sizes import parse_size
from turbopilot.commands.verb import AsJson, Devices, Force, Threads, takes
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.app.memory_fit import FitRequest


# fmt: off
@dataclass(frozen=True, slots=True)
class QuantizeArguments:
    """Arguments of `turbopilot quantize`."""

    source: Annotated[str | None, typer.Argument(
        metavar="MODEL",
        help="F32, F16 or BF16 GGUF file, checkpoint folder, or model name (see turbopilot models).",
    )] = None
    type_name: Annotated[str | None, typer.Argument(
        metavar="TYPE", help="Quantization type, such as Q4_0, Q4_K_M or Q8_0 (see --list).",
    )] = None
    output: Annotated[Path | None, typer.Option(
        "-o", "--output", help="File to write. Default: MODEL's name plus the type.",
    )] = None
    fit: Annotated[str, typer.Option(
        metavar="SIZE", show_default=False,
        help="Instead of TYPE: choose the type of each matrix so that serving takes at most this memory, such as 4GiB "
        "or 900MB: all of it, in main memory and on GPUs.",
    )] = ""
    fit_vram: Annotated[str, typer.Option(
        metavar="SIZE,…", show_default=False,
        help="Instead of TYPE: choose the type of each matrix so that the part on a GPU takes at most this memory "
        "there: the weights of the layers and of the output head, the KV cache of --ctx and --parallel, and "
        "llama.cpp's buffers. All layers are there, or as many as --ngl names. Several sizes are for several GPUs, "
        "which need not be in this machine. With --fit too, both limits hold.",
    )] = ""
    imatrix: Annotated[str, typer.Option(
        metavar="FILE|auto|none", show_default=False,
        help="Importance matrix (see turbopilot imatrix), which improves types below 5 bits. auto computes one from "
        "MODEL in at most 10 minutes and keeps it in the cache. Default: none; with --fit, auto.",
    )] = ""
    tensor_types: Annotated[list[str] | None, typer.Option(
        "--tensor-type", metavar="REGEX=TYPE",
        help="Type of the tensors whose name matches REGEX, such as 'ffn_down=q6_k'. Can be repeated; the first match "
        "applies.",
    )] = None
    output_type: Annotated[str, typer.Option(
        metavar="TYPE", show_default=False, help="Type of the output head (output.weight).",
    )] = ""
    embedding_type: Annotated[str, typer.Option(
        metavar="TYPE", show_default=False,
        help="Type of the token embedding. If the model has tied embeddings, it is the output head too.",
    )] = ""
    pure: Annotated[bool, typer.Option(
        "--pure", help="Use TYPE for every matrix instead of llama.cpp's mixture of types.",
    )] = False
    keep_split: Annotated[bool, typer.Option(
        "--keep-split", help="Write a split MODEL as split files too.",
    )] = False
    allow_requantize: Annotated[bool, typer.Option(
        "--allow-requantize", help="Accept a quantized MODEL. Quality is lost twice: start from F16 if you can.",
    )] = False
    dry_run: Annotated[bool, typer.Option(
        "--dry-run", help="Show every tensor's type and exact size; write nothing.",
    )] = False
    ctx: Annotated[int, typer.Option(
        "-c", "--ctx", min=1, help="With --fit and --fit-vram: context in tokens, as in serve.",
    )] = 2048
    parallel: Annotated[int, typer.Option(
        min=1, max=256,
        help="With --fit and --fit-vram: requests in parallel, which share the context, as in serve if memory is "
        "short.",
    )] = 1
    cache_type: Annotated[str, typer.Option(
        help="With --fit and --fit-vram: type of the KV cache, as in serve (f16, q8_0 …).",
    )] = "f16"
    batch_size: Annotated[int, typer.Option(
        min=1, help="With --fit and --fit-vram: batch size, as in serve.",
    )] = 512
    minutes: Annotated[float, typer.Option(
        min=0,
        help="With --fit and --fit-vram: time limit for measuring the loss of each group of matrices; --imatrix auto "
        "takes up to half of it in addition.",
    )] = 10.0
    quick: Annotated[bool, typer.Option(
        "--quick",
        help="With --fit and --fit-vram: choose by rounding errors only. Takes seconds, because the model is not run.",
    )] = False
    types: Annotated[str, typer.Option(
        metavar="A,B,…", show_default=False,
        help="With --fit and --fit-vram: types to choose from. Default: all types with a fast prefill.",
    )] = ""
    compare: Annotated[int, typer.Option(
        min=0, help="With --fit and --fit-vram: number of standard types to quantize and measure for comparison.",
    )] = 1
    text: Annotated[Path | None, typer.Option(
        help="With --fit and --fit-vram: your own code, a folder or a file. One half of it decides the types, and the "
        "files are compared on the other. Default: code in many languages.",
    )] = None
    devices: Devices = DeviceOptions()  # noqa: RUF009 — frozen
    threads: Threads = 0
    list_types: Annotated[bool, typer.Option("--list", help="List all quantization types and exit.")] = False
    force: Force = False
    as_json: AsJson = False
# fmt: on


@takes(QuantizeArguments)
def quantize(given: QuantizeArguments) -> None:
    """Quantize a model to a given type, or to fit in a given memory.

    Fewer bits per weight take less memory and lose more quality; turbopilot verify measures the loss. The quantizer
    is llama.cpp's.

    With --fit or --fit-vram, the model is run on code to measure how much rounding each group of matrices costs. The
    best file within the memory limits is written, run with the settings of serve, and compared with standard types that
    fit too.

    Example: turbopilot quantize codegen-f16.gguf Q4_K_M

    Example: turbopilot quantize codegen-350M-mono Q4_0 --imatrix auto

    Example: turbopilot quantize codegen-6B-multi --fit 4GiB --ctx 2048

    Example: turbopilot quantize codegen-6B-multi --fit-vram 3.5GiB --parallel 2
    """
    from turbopilot.render.quantize import show_types

    if given.list_types:
        show_types(as_json=given.as_json)
    elif given.source and given.type_name and not (given.fit or given.fit_vram):
        if given.text:
            raise InvalidInput(
                "--text needs --fit or --fit-vram",
                hint="for an importance matrix of your own code: turbopilot imatrix --text",
            )
        _quantize(given, given.source, given.type_name)
    elif given.source and (given.fit or given.fit_vram):
        _fit(given, given.source)
    else:
        raise InvalidInput(
            "give a model and a type",
            hint="turbopilot quantize FILE.gguf Q4_K_M, or --fit 4GiB; --list shows the types",
        )


def _quantize(given: QuantizeArguments, source: str, type_name: str) -> None:
    from quantize import QuantizeOptions, find_recipe, find_tensor_type, parse_override, plan
    from quantize import quantize as quantize_file
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.render.quantize import show_plan, show_result

    recipe = find_recipe(type_name)
    options = QuantizeOptions(
        overrides=tuple(map(parse_override, given.tensor_types or ())),
        output_type=find_tensor_type(given.output_type, "--output-type"),
        embedding_type=find_tensor_type(given.embedding_type, "--embedding-type"),
        pure=given.pure,
        keep_split=given.keep_split,
        allow_requantize=given.allow_requantize,
        threads=given.threads,
        digests=cache_folder(),
    )
    path = resolve_gguf(source, console.REPORTER, type_name="F16")
    matrix = matrix_file(
        given.imatrix, path, console.REPORTER, threads=given.threads, placement=given.devices.wish
    )
    options = replace(options, imatrix=matrix)
    if given.dry_run:
        show_plan(plan(path, recipe.name, options), as_json=given.as_json)
        return
    target = given.output or beside(source, path, recipe.name.lower())
    with console.progress("quantize") as progress:
        report = quantize_file(
            path, target, recipe.name, options, force=given.force, progress=progress
        )
    show_result(report, as_json=given.as_json)


def _fit(given: QuantizeArguments, source: str) -> None:
    from turbopilot.app.memory_fit import make_fit, plan_fit
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.render.fit import show_fit
    from turbopilot.render.quantize import show_plan

    request = _fit_request(given)
    path = resolve_gguf(source, console.REPORTER, type_name="F16")
    if given.dry_run:
        show_plan(plan_fit(path, request, console.REPORTER), as_json=given.as_json)
        return
    sizes = [given.fit, f"{given.fit_vram} vram" if given.fit_vram else ""]
    suffix = re.sub(r"[\s,]+", "-", " ".join(filter(None, sizes)).lower())
    target = given.output or beside(source, path, suffix)
    report = make_fit(path, target, request, console.REPORTER, force=given.force)
    show_fit(report, as_json=given.as_json)


def _fit_request(given: QuantizeArguments) -> FitRequest:
    """Return the options of a fit; raise InvalidInput if some cannot be combined."""
    from serve.llama.facts import GUESSES
    from turbopilot.app.memory_fit import FitRequest, candidates
    from turbopilot.bench import Setup
    from turbopilot.corpus.own_code import read_halves

    option = "--fit" if given.fit else "--fit-vram"
    beyond = {
        given.type_name: given.type_name, "--tensor-type": given.tensor_types, "--output-type": given.output_type,
        "--embedding-type": given.embedding_type, "--pure": given.pure, "--keep-split": given.keep_split,
        "--allow-requantize": given.allow_requantize,
    }  # fmt: skip
    if wrong := [name for name, value in beyond.items() if value]:
        raise InvalidInput(
            f"{wrong[0]}: cannot be combined with {option}, which chooses the types",
            hint="leave one of them out; --types limits the choice",
        )
    if given.fit_vram and given.devices.n_gpu_layers == 0:
        raise InvalidInput(
            "--fit-vram: --ngl 0 puts nothing on a GPU", hint="leave one of them out, or use --fit"
        )
    setup = Setup(
        n_ctx=given.ctx,
        n_batch=given.batch_size,
        n_threads=given.threads or None,
        n_seq=given.parallel,
        n_outputs=max(Setup().n_outputs, given.parallel + GUESSES),
        placement=given.devices.wish,
        cache_type=given.cache_type.upper(),
        flash_attention=True,  # takes less memory
    )
    return FitRequest(
        memory=parse_size("--fit", given.fit) if given.fit else None,
        devices=parse_sizes("--fit-vram", [given.fit_vram]),
        setup=setup,
        candidates=candidates(given.types),
        imatrix=given.imatrix or ("none" if given.quick else "auto"),
        seconds=60 * given.minutes,
        is_quick=given.quick,
        compare=given.compare,
        texts=read_halves(given.text) if given.text else None,
    )
