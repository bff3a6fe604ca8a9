"""Output of `turbopilot quantize`: the list of types, a plan or a result."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from turbopilot.base.counts import count
from turbopilot.base.sizes import size
from turbopilot.render import console
from turbopilot.render.table import TableColumns

if TYPE_CHECKING:
    from quantize import Preview, QuantizeReport

_SHOWN = 5  # lines about tensors that get another type


def show_types(*, as_json: bool) -> None:
    """Show all quantization types and the kernels that this machine has for them."""
    from quantize import RECIPES
    from quantize.kernels import fast_on_cuda, repacked
    from turbopilot.base.machine import cpu_features, cpu_name
    from turbopilot.catalog.prompt_speed import MEASURED_ON, PROMPT_SPEED

    features = cpu_features()
    types: list[dict[str, Any]] = [
        {
            "name": r.name, "base": r.base, "bits": r.bits, "imatrix": r.imatrix,
            "prompt_percent_of_f16": PROMPT_SPEED.get(r.name), "cpu_kernel": repacked(r.base, features),
            "cuda_kernel": fast_on_cuda(r.base), "advice": r.advice,
        }
        for r in RECIPES
    ]  # fmt: skip
    if as_json:
        console.emit_json({"types": types})
        return
    rows = [
        [
            t["name"], f"{t['bits']:g}", t["imatrix"],
            f"{t['prompt_percent_of_f16']}%" if t["prompt_percent_of_f16"] else "",
            "yes" if t["cpu_kernel"] else "", "yes" if t["cuda_kernel"] else "slow", t["advice"],
        ]
        for t in types
    ]  # fmt: skip
    columns = TableColumns(
        ("type", "bits", "imatrix", "prefill", "CPU", "CUDA", "advice"),
        left=("imatrix", "CPU", "CUDA"),
        optional=("CUDA", "CPU", "prefill"),
        text="advice",
    )
    legend = {
        "bits": "bits per weight of most matrices",
        "prefill": f"prompt speed in percent of F16's, measured on {MEASURED_ON}",
        "CPU": f"llama.cpp has a special prefill kernel for this CPU ({cpu_name() or 'unknown'})",
    }
    console.table("", columns, rows, legend)
    console.text("to measure on this machine: turbopilot bench A.gguf B.gguf")


def show_plan(preview: Preview, *, as_json: bool) -> None:
    """Show the plan of a dry run: every tensor with its type and exact size."""
    if as_json:
        tensors = [
            {**asdict(t), "bytes_before": t.bytes_before, "bytes_after": t.bytes_after}
            for t in preview.tensors
        ]
        console.emit_json({
            "type": preview.name, "bytes": preview.file_bytes, "tensor_bytes": preview.tensor_bytes,
            "bits_per_weight": preview.bits_per_weight, "tensors": tensors,
        })  # fmt: skip
        return
    rows = [
        [t.name, " × ".join(map(str, t.shape)), t.before, t.after, f"{t.bytes_before:,}", f"{t.bytes_after:,}"]
        for t in preview.tensors
    ]  # fmt: skip
    columns = TableColumns(
        ("tensor", "shape", "from", "to", "bytes before", "bytes after"),
        left=("shape", "from", "to"),
        optional=("bytes before", "shape"),
    )
    console.table("", columns, rows)
    console.text(
        f"{preview.name}: {preview.tensor_bytes:,} bytes of tensors, {preview.bits_per_weight:.2f} bits per weight; "
        f"file size {size(preview.file_bytes)}"
    )
    _fallbacks(preview.fallbacks())
    if again := preview.requantized():
        console.info(f"already quantized: {count(len(again), 'tensor')}; add --allow-requantize")
    if missing := preview.without_imatrix():
        console.info(
            f"without the importance matrix that their type needs: {count(len(missing), 'tensor')}; "
            "add --imatrix auto"
        )


def show_result(report: QuantizeReport, *, as_json: bool) -> None:
    """Show the size and the types of the file before and after."""
    if as_json:
        paths = {"source": str(report.source), "path": str(report.path)}
        console.emit_json({**asdict(report), **paths})
        return
    rows = [
        [when, size(n), f"{bits:.2f}", ", ".join(f"{k} {size(v)}" for k, v in types.items())]
        for when, n, bits, types in (
            ("before", report.bytes_before, report.bits_before, report.types_before),
            ("after", report.bytes_after, report.bits_after, report.types_after),
        )
    ]  # fmt: skip
    title = f"{report.path} ({report.recipe}, {report.seconds:.1f} s)"
    console.table(title, TableColumns(("", "size", "bits/weight", "types"), text="types"), rows)
    _fallbacks(report.fallbacks)


def _fallbacks(lines: tuple[str, ...]) -> None:
    for line in lines[:_SHOWN]:
        console.info(line)
    if len(lines) > _SHOWN:
        console.info(f"… and {count(len(lines) - _SHOWN, 'more tensor')} (--dry-run shows all)")
