"""`turbopilot quantize`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from turbopilot.app.cached_artifacts import beside, cache_folder, gathered
from turbopilot.base.atomic import check_output
from turbopilot.base.errors import InvalidInput
from turbopilot.base.option_values import number_or_auto, parse_size
from turbopilot.render import console

_MATRIX_SECONDS: Final = 600.0


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
    fit: Annotated[
        str,
        typer.Option(
            "--fit",
            metavar="SIZE",
            help="Instead of TYPE: the memory that serving may take, all of it (4GiB, 900MB). Each matrix gets the "
            "type that is worth its bytes.",
            show_default=False,
        ),
    ] = "",
    imatrix: Annotated[
        str,
        typer.Option(
            metavar="FILE|auto|none",
            help="An importance matrix, which says where rounding hurts least (turbopilot imatrix); auto gathers one "
            "from MODEL, once, in 10 minutes at most. Worth it below 5 bits. Default: none; with --fit, auto.",
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
    ctx: Annotated[
        int,
        typer.Option(
            "-c",
            "--ctx",
            min=1,
            help="With --fit: tokens of context to serve.",
        ),
    ] = 2048,
    cache_type: Annotated[
        str,
        typer.Option(help="With --fit: serve's type of keys and values (f16, q8_0 …)."),
    ] = "f16",
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", min=1, help="With --fit: serve's batch."),
    ] = 512,
    minutes: Annotated[
        float,
        typer.Option(
            min=0,
            help="With --fit: time to measure what each group of matrices costs, and half as much for a matrix.",
        ),
    ] = 10.0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="With --fit: run no model; choose by errors of rounding alone, which takes seconds and no memory.",
        ),
    ] = False,
    types: Annotated[
        str,
        typer.Option(
            "--types",
            metavar="A,B,…",
            help="With --fit: choose from these. Default: all that do not make prompts slow.",
            show_default=False,
        ),
    ] = "",
    compare: Annotated[
        int,
        typer.Option(
            min=0,
            help="With --fit: make and measure so many of the plain types beside it.",
        ),
    ] = 1,
    n_gpu_layers: Annotated[
        str,
        typer.Option("--ngl", "--n-gpu-layers", help="Layers on the GPU, where a model is run."),
    ] = "auto",
    threads: Annotated[int, typer.Option("-t", "--threads", min=0, help="0: all cores.")] = 0,
    list_types: Annotated[bool, typer.Option("--list", help="Show all types and leave.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.")
    ] = False,
) -> None:
    r"""Make a GGUF file smaller, with llama.cpp's own quantizer.

    Fewer bits per weight take less memory and lose more; turbopilot verify says how much.

    With --fit, the model is run over code to measure what each group of matrices loses by rounding; what is lost
    least in the given memory is written, run as serve would, and shown beside the plain types that fit as well.

    Example: turbopilot quantize codegen-f16.gguf Q4_K_M

    Example: turbopilot quantize codegen-350M-mono Q4_0 --imatrix auto

    Example: turbopilot quantize codegen-6B-multi --fit 4GiB --ctx 2048 --cache-type q8_0

    Example: turbopilot quantize codegen-f16.gguf Q4_K_S --tensor-type 'blk\.0\.=q8_0' --dry-run
    """
    from turbopilot.render import quantize as quantize_text

    if list_types:
        quantize_text.types(as_json=as_json)
        return
    if fit and type_name:
        raise InvalidInput(
            f"{type_name} and --fit {fit}: --fit chooses the types itself",
            hint="leave one of them out; --types says what it may choose from",
        )
    if source is None or not (type_name or fit):
        raise InvalidInput(
            "a file and a type are needed",
            hint="turbopilot quantize FILE.gguf Q4_K_M, or --fit 4GiB; --list shows the types",
        )
    layers = number_or_auto("--ngl", n_gpu_layers, least=0)
    if not type_name:
        given = {
            "--tensor-type": tensor_types, "--output-type": output_type, "--embedding-type": embedding_type,
            "--pure": pure, "--keep-split": keep_split, "--allow-requantize": allow_requantize,
        }  # fmt: skip
        if beyond := [name for name, value in given.items() if value]:
            raise InvalidInput(
                f"{beyond[0]}: --fit chooses the types itself",
                hint="--types says what it may choose from",
            )
        _fit(
            source, output, fit, imatrix, types, ctx=ctx, cache_type=cache_type, batch_size=batch_size,
            seconds=0.0 if quick else 60 * minutes, quick=quick, compare=compare, layers=layers, threads=threads,
            dry_run=dry_run, force=force, as_json=as_json,
        )  # fmt: skip
        return
    from quantize import Options, find_recipe, find_tensor_type, parse_override, plan
    from quantize import quantize as run_quantize
    from turbopilot.app.resolve import resolve_gguf

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
        imatrix=_matrix(imatrix, path, threads, layers),
        threads=threads,
    )
    if dry_run:
        quantize_text.plan(plan(path, recipe.name, options), as_json=as_json)
        return
    target = output or beside(source, path, recipe.name.lower())
    with console.progress("quantize") as progress:
        report = run_quantize(
            path, target, recipe.name, options, force=force, memory=cache_folder(), progress=progress
        )  # fmt: skip
    if as_json:
        paths = {"source": str(report.source), "path": str(report.path)}
        console.emit_json({**asdict(report), **paths})
    else:
        quantize_text.result(report)


def _matrix(
    given: str, model: Path, threads: int, layers: int | None, seconds: float = _MATRIX_SECONDS
) -> Path | None:
    """The file of --imatrix; gathered, once, for `auto`."""
    if given in ("", "none"):
        return None
    if given != "auto":
        return Path(given).expanduser()
    return gathered(model, seconds=seconds, threads=threads, n_gpu_layers=layers)


def _fit(
    source: str,
    output: Path | None,
    memory: str,
    imatrix: str,
    types: str,
    *,
    ctx: int,
    cache_type: str,
    batch_size: int,
    seconds: float,
    quick: bool,
    compare: int,
    layers: int | None,
    threads: int,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """`--fit`, once its options are known to be alone."""
    from turbopilot.app import memory_fit as fit
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.bench import Setup
    from turbopilot.render import fit as fit_text
    from turbopilot.render import quantize as quantize_text

    n_bytes = parse_size("--fit", memory)
    chosen_from = fit.candidates(types)
    setup = Setup(
        n_ctx=ctx, n_batch=batch_size, n_threads=threads or None, n_gpu_layers=layers, cache_type=cache_type.upper(),
        flash_attention=True,  # it takes less memory, which is what is promised here
    )  # fmt: skip
    path = resolve_gguf(source, type_name="F16")
    target = output or beside(source, path, memory.lower().replace(" ", ""))
    if not dry_run:  # before the long work
        check_output(target, force=force, inputs=(path,))
    given = imatrix or ("none" if quick else "auto")
    wish = fit.Wish(
        n_bytes, setup, chosen_from, _matrix(given, path, threads, layers, seconds / 2 or _MATRIX_SECONDS),
        seconds=seconds, check=not quick, compare=compare, threads=threads, force=force, cache=cache_folder(),
    )  # fmt: skip
    if dry_run:
        quantize_text.plan(fit.preview(path, wish), as_json=as_json)
        return
    report = fit.make(path, target, wish)
    if as_json:
        console.emit_json(fit_text.as_json(report))
    else:
        fit_text.show(report)
