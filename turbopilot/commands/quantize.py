"""`turbopilot quantize`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from turbopilot.app.cached_artifacts import beside, matrix_file
from turbopilot.base.cache_folder import cache_folder
from turbopilot.base.errors import InvalidInput
from turbopilot.base.option_values import number_or_auto
from turbopilot.commands.verb import AsJson, Force, NGpuLayers, Threads, takes
from turbopilot.render import console


# fmt: off
@dataclass(frozen=True, slots=True)
class QuantizeArguments:
    """Arguments of `turbopilot quantize`."""

    source: Annotated[str | None, typer.Argument(
        metavar="MODEL", help="An F32, F16 or BF16 GGUF file, a checkpoint's folder, or a name (turbopilot models).",
    )] = None
    type_name: Annotated[str | None, typer.Argument(
        metavar="TYPE", help="Q4_0, Q4_K_M, Q8_0 … (see --list).",
    )] = None
    output: Annotated[Path | None, typer.Option(
        "-o", "--output", help="File to write. Default: MODEL's name with the type.",
    )] = None
    fit: Annotated[str, typer.Option(
        metavar="SIZE", show_default=False,
        help="Instead of TYPE: total memory for serving (4GiB, 900MB). The type of each matrix is chosen to fit.",
    )] = ""
    imatrix: Annotated[str, typer.Option(
        metavar="FILE|auto|none", show_default=False,
        help="An importance matrix (turbopilot imatrix), which improves types below 5 bits; auto gathers one from "
        "MODEL, once, in 10 minutes at most. Default: none; with --fit, auto.",
    )] = ""
    tensor_types: Annotated[list[str] | None, typer.Option(
        "--tensor-type", metavar="REGEX=TYPE",
        help="Type of tensors whose name matches, e.g. 'ffn_down=q6_k'. Repeatable; the first match counts.",
    )] = None
    output_type: Annotated[str, typer.Option(
        metavar="TYPE", show_default=False, help="Type of the output head (output.weight).",
    )] = ""
    embedding_type: Annotated[str, typer.Option(
        metavar="TYPE", show_default=False,
        help="Type of the token embedding, which is also the output head of a tied model.",
    )] = ""
    pure: Annotated[bool, typer.Option(
        "--pure", help="Use TYPE for every matrix, without llama.cpp's mixture of types.",
    )] = False
    keep_split: Annotated[bool, typer.Option(
        "--keep-split", help="Keep a split model split.",
    )] = False
    allow_requantize: Annotated[bool, typer.Option(
        "--allow-requantize", help="Accept a quantized MODEL. That loses twice: start from F16 if you can.",
    )] = False
    dry_run: Annotated[bool, typer.Option(
        "--dry-run", help="Show every tensor's type and exact size; write nothing.",
    )] = False
    ctx: Annotated[int, typer.Option("-c", "--ctx", min=1, help="With --fit: context in tokens, as in serve.")] = 2048
    cache_type: Annotated[str, typer.Option(
        help="With --fit: type of the KV cache, as in serve (f16, q8_0 …).",
    )] = "f16"
    batch_size: Annotated[int, typer.Option(min=1, help="With --fit: batch size, as in serve.")] = 512
    minutes: Annotated[float, typer.Option(
        min=0, help="With --fit: time to measure the loss of each group of matrices; half as much for --imatrix auto.",
    )] = 10.0
    quick: Annotated[bool, typer.Option(
        "--quick",
        help="With --fit: choose by rounding errors alone, in seconds, without running the model.",
    )] = False
    types: Annotated[str, typer.Option(
        metavar="A,B,…", show_default=False,
        help="With --fit: types to choose from. Default: all with a fast prefill.",
    )] = ""
    compare: Annotated[int, typer.Option(
        min=0, help="With --fit: number of plain types to make and measure for comparison.",
    )] = 1
    n_gpu_layers: NGpuLayers = "auto"
    threads: Threads = 0
    list_types: Annotated[bool, typer.Option("--list", help="Show all types and exit.")] = False
    force: Force = False
    as_json: AsJson = False
# fmt: on


@takes(QuantizeArguments)
def quantize(given: QuantizeArguments) -> None:
    r"""Make a GGUF file smaller, with llama.cpp's own quantizer.

    Fewer bits per weight take less memory and lose more; turbopilot verify measures how much.

    With --fit, the model is run over code to measure the loss of each group of matrices by rounding. The file with
    the least loss in the given memory is written, run as in serve, and compared with the plain types that fit as well.

    Example: turbopilot quantize codegen-f16.gguf Q4_K_M

    Example: turbopilot quantize codegen-350M-mono Q4_0 --imatrix auto

    Example: turbopilot quantize codegen-6B-multi --fit 4GiB --ctx 2048 --cache-type q8_0

    Example: turbopilot quantize codegen-f16.gguf Q4_K_S --tensor-type 'blk\.0\.=q8_0' --dry-run
    """
    from turbopilot.render.quantize import show_types

    if given.list_types:
        show_types(as_json=given.as_json)
    elif given.source and given.type_name and not given.fit:
        _quantize(given, given.source, given.type_name)
    elif given.source and given.fit:
        _fit(given, given.source)
    else:
        raise InvalidInput(
            "a file and a type are needed",
            hint="turbopilot quantize FILE.gguf Q4_K_M, or --fit 4GiB; --list shows the types",
        )


def _quantize(given: QuantizeArguments, source: str, type_name: str) -> None:
    from quantize import QuantizeOptions, find_recipe, find_tensor_type, parse_override, plan
    from quantize import quantize as quantize_file
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.render.quantize import show_plan, show_result

    recipe, layers = find_recipe(type_name), number_or_auto("--ngl", given.n_gpu_layers, least=0)
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
        given.imatrix, path, console.REPORTER, threads=given.threads, n_gpu_layers=layers
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
    beyond = {
        given.type_name: given.type_name, "--tensor-type": given.tensor_types, "--output-type": given.output_type,
        "--embedding-type": given.embedding_type, "--pure": given.pure, "--keep-split": given.keep_split,
        "--allow-requantize": given.allow_requantize,
    }  # fmt: skip
    if wrong := [name for name, value in beyond.items() if value]:
        raise InvalidInput(
            f"{wrong[0]}: --fit chooses the types itself",
            hint="leave one of them out; --types limits its choice",
        )
    from turbopilot.app.memory_fit import FitRequest, candidates, make_fit, plan_fit
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.base.sizes import parse_size
    from turbopilot.bench import Setup
    from turbopilot.render.fit import show_fit
    from turbopilot.render.quantize import show_plan

    setup = Setup(
        n_ctx=given.ctx,
        n_batch=given.batch_size,
        n_threads=given.threads or None,
        n_gpu_layers=number_or_auto("--ngl", given.n_gpu_layers, least=0),
        cache_type=given.cache_type.upper(),
        flash_attention=True,  # takes less memory
    )
    request = FitRequest(
        memory=parse_size("--fit", given.fit),
        setup=setup,
        candidates=candidates(given.types),
        imatrix=given.imatrix or ("none" if given.quick else "auto"),
        seconds=60 * given.minutes,
        is_quick=given.quick,
        compare=given.compare,
    )
    path = resolve_gguf(source, console.REPORTER, type_name="F16")
    if given.dry_run:
        show_plan(plan_fit(path, request, console.REPORTER), as_json=given.as_json)
        return
    target = given.output or beside(source, path, given.fit.lower().replace(" ", ""))
    report = make_fit(path, target, request, console.REPORTER, force=given.force)
    show_fit(report, as_json=given.as_json)
