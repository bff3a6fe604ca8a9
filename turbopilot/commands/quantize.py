"""`turbopilot quantize`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from turbopilot.app.cached_artifacts import beside, cache_folder, matrix_file
from turbopilot.base.errors import InvalidInput
from turbopilot.base.option_values import number_or_auto
from turbopilot.commands.verb import AsJson, Force, NGpuLayers, Threads, takes
from turbopilot.render import console


# fmt: off
@dataclass(frozen=True, slots=True)
class QuantizeArguments:
    """What is typed behind `turbopilot quantize`."""

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
        help="Instead of TYPE: the memory that serving may take, all of it (4GiB, 900MB). Each matrix gets the type "
        "that is worth its bytes.",
    )] = ""
    imatrix: Annotated[str, typer.Option(
        metavar="FILE|auto|none", show_default=False,
        help="An importance matrix, which says where rounding hurts least (turbopilot imatrix); auto gathers one from "
        "MODEL, once, in 10 minutes at most. Worth it below 5 bits. Default: none; with --fit, auto.",
    )] = ""
    tensor_types: Annotated[list[str] | None, typer.Option(
        "--tensor-type", metavar="REGEX=TYPE",
        help="Tensors whose name matches get this type, e.g. 'ffn_down=q6_k'. Repeatable; the first match counts.",
    )] = None
    output_type: Annotated[str, typer.Option(
        metavar="TYPE", show_default=False, help="Of the output head (output.weight).",
    )] = ""
    embedding_type: Annotated[str, typer.Option(
        metavar="TYPE", show_default=False, help="Of the token embedding, which a tied model has as its head too.",
    )] = ""
    pure: Annotated[bool, typer.Option(
        "--pure", help="Every matrix in the one type, without llama.cpp's mixture.",
    )] = False
    keep_split: Annotated[bool, typer.Option(
        "--keep-split", help="A model in several files stays in as many.",
    )] = False
    allow_requantize: Annotated[bool, typer.Option(
        "--allow-requantize", help="Quantize what is quantized already. It loses twice: start from F16 where you can.",
    )] = False
    dry_run: Annotated[bool, typer.Option(
        "--dry-run", help="Show every tensor's type and exact size; write nothing.",
    )] = False
    ctx: Annotated[int, typer.Option("-c", "--ctx", min=1, help="With --fit: tokens of context to serve.")] = 2048
    cache_type: Annotated[str, typer.Option(
        help="With --fit: serve's type of keys and values (f16, q8_0 …).",
    )] = "f16"
    batch_size: Annotated[int, typer.Option(min=1, help="With --fit: serve's batch.")] = 512
    minutes: Annotated[float, typer.Option(
        min=0, help="With --fit: time to measure what each group of matrices costs, and half as much for a matrix.",
    )] = 10.0
    quick: Annotated[bool, typer.Option(
        "--quick",
        help="With --fit: run no model; choose by errors of rounding alone, which takes seconds and no memory.",
    )] = False
    types: Annotated[str, typer.Option(
        metavar="A,B,…", show_default=False,
        help="With --fit: choose from these. Default: all that do not make prompts slow.",
    )] = ""
    compare: Annotated[int, typer.Option(
        min=0, help="With --fit: make and measure so many of the plain types beside it.",
    )] = 1
    n_gpu_layers: NGpuLayers = "auto"
    threads: Threads = 0
    list_types: Annotated[bool, typer.Option("--list", help="Show all types and leave.")] = False
    force: Force = False
    as_json: AsJson = False
# fmt: on


@takes(QuantizeArguments)
def quantize(given: QuantizeArguments) -> None:
    r"""Make a GGUF file smaller, with llama.cpp's own quantizer.

    Fewer bits per weight take less memory and lose more; turbopilot verify says how much.

    With --fit, the model is run over code to measure what each group of matrices loses by rounding; what is lost
    least in the given memory is written, run as serve would, and shown beside the plain types that fit as well.

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
            hint="leave one of them out; --types says what it may choose from",
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
        flash_attention=True,  # it takes less memory, which is what is promised here
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
