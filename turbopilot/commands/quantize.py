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
    threads: Annotated[int, typer.Option("-t", "--threads", min=0, help="0: all cores.")] = 0,
    list_types: Annotated[bool, typer.Option("--list", help="Show all types and leave.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.")
    ] = False,
) -> None:
    """Make a GGUF file smaller, with llama.cpp's own quantizer.

    Fewer bits per weight take less memory and lose more; turbopilot verify says how much.

    Example: turbopilot quantize codegen-f16.gguf Q4_K_M

    Example: turbopilot quantize codegen-350M-mono Q4_0
    """
    from quantize import RECIPES, find_recipe
    from quantize import quantize as run_quantize
    from turbopilot.commands.resolve import resolve_gguf

    if list_types:
        rows = [
            [r.name, f"{r.bits:g}", "needed" if r.needs_imatrix else "", r.advice] for r in RECIPES
        ]
        if as_json:
            console.emit_json({"types": [asdict(r) for r in RECIPES]})
        else:
            console.table("", ["type", "bits/weight", "imatrix", "advice"], rows, numbers=(1,))
        return
    if source is None or type_name is None:
        raise InvalidInput(
            "a file and a type are needed",
            hint="turbopilot quantize FILE.gguf Q4_K_M; --list shows the types",
        )
    recipe = find_recipe(type_name)
    path = resolve_gguf(source, type_name="F16")
    target = output or _default_output(source, path, recipe.name)
    with console.progress("quantize") as progress:
        report = run_quantize(
            path, target, recipe.name, force=force, threads=threads, progress=progress
        )
    if as_json:
        console.emit_json(
            {**asdict(report), "source": str(report.source), "path": str(report.path)}
        )
        return
    console.table(
        f"{report.path} ({report.recipe}, {report.seconds:.1f} s)",
        ["", "size", "bits/weight", "types"],
        [
            [
                "before",
                console.size(report.bytes_before),
                f"{report.bits_before:.2f}",
                _types(report.types_before),
            ],
            [
                "after",
                console.size(report.bytes_after),
                f"{report.bits_after:.2f}",
                _types(report.types_after),
            ],
        ],
        numbers=(1, 2),
    )
    for line in report.fallbacks:
        console.info(f"llama.cpp: {line}")


def _default_output(source: str, path: Path, recipe: str) -> Path:
    """codegen-f16.gguf → codegen-q4_0.gguf, in the same folder; of a name or a folder, in this one."""
    if not Path(source).expanduser().is_file():
        return Path(f"{Path(source).name}-{recipe.lower()}.gguf")
    stem = path.stem
    for suffix in ("-f16", "-f32", "-bf16"):
        stem = stem.removesuffix(suffix)
    return path.with_name(f"{stem}-{recipe.lower()}.gguf")


def _types(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {console.size(n)}" for name, n in sizes.items())
