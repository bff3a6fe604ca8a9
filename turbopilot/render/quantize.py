"""What `turbopilot quantize` shows: the table of types, a plan, a result. Text only: quantizes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turbopilot.render import console

if TYPE_CHECKING:
    from quantize import Preview, QuantizeReport

_IMATRIX = {"needed": "needed", "helps": "helps", "": ""}


def types(*, as_json: bool) -> None:
    """All file types, and what this machine's processor makes of them."""
    from quantize import RECIPES
    from quantize.kernels import fast_on_cuda, repacked
    from turbopilot.base.machine import cpu_features, cpu_name
    from turbopilot.catalog.prompt_speed import MEASURED_ON, PROMPT_SPEED

    features = cpu_features()
    if as_json:
        console.emit_json(
            {
                "types": [
                    {
                        "name": r.name, "base": r.base, "bits": r.bits, "imatrix": r.imatrix,
                        "prompt_percent_of_f16": PROMPT_SPEED.get(r.name),
                        "cpu_kernel": repacked(r.base, features), "cuda_kernel": fast_on_cuda(r.base),
                        "advice": r.advice,
                    }
                    for r in RECIPES
                ]
            }
        )  # fmt: skip
        return
    rows = [
        [
            r.name,
            f"{r.bits:g}",
            _IMATRIX[r.imatrix],
            f"{PROMPT_SPEED[r.name]}%" if r.name in PROMPT_SPEED else "",
            "yes" if repacked(r.base, features) else "",
            "yes" if fast_on_cuda(r.base) else "slow",
            r.advice,
        ]
        for r in RECIPES
    ]
    columns = ["type", "bits/weight", "imatrix", "prompts", "CPU", "CUDA", "advice"]
    console.table("", columns, rows, numbers=(1, 3))
    console.result(
        f"prompts: speed on a prompt, which an editor feels first, in percent of F16's, measured on {MEASURED_ON}.\n"
        f"CPU: llama.cpp has a kernel of the type's own for prompts on this one ({cpu_name() or 'unknown'}).\n"
        "Measure your own: turbopilot bench A.gguf B.gguf"
    )


def plan(preview: Preview, *, as_json: bool) -> None:
    """Every tensor of a dry run, with exact sizes."""
    if as_json:
        console.emit_json(
            {
                "type": preview.recipe,
                "bytes": preview.file_bytes,
                "tensor_bytes": preview.tensor_bytes,
                "bits_per_weight": preview.bits_per_weight,
                "tensors": [
                    {
                        "name": t.name, "shape": list(t.shape), "before": t.before, "after": t.after,
                        "bytes_before": t.bytes_before, "bytes_after": t.bytes_after, "wanted": t.wanted,
                    }
                    for t in preview.tensors
                ],
            }
        )  # fmt: skip
        return
    rows = [
        [
            t.name,
            " × ".join(f"{n}" for n in t.shape),
            t.before,
            t.after,
            f"{t.bytes_before:,}",
            f"{t.bytes_after:,}",
        ]
        for t in preview.tensors
    ]
    columns = ["tensor", "shape", "from", "to", "bytes", "bytes after"]
    console.table("", columns, rows, numbers=(4, 5))
    console.result(
        f"{preview.recipe}: {preview.tensor_bytes:,} bytes of tensors, {preview.bits_per_weight:.2f} bits per weight; "
        f"a file of {console.size(preview.file_bytes)}"
    )
    fallbacks(preview.fallbacks())
    if again := preview.requantized():
        console.info(
            f"{len(again)} tensors are quantized already: --allow-requantize would be needed"
        )
    if missing := preview.without_imatrix():
        console.info(f"{len(missing)} tensors need an importance matrix (--imatrix auto)")


def result(report: QuantizeReport) -> None:
    """Before and after."""
    console.table(
        f"{report.path} ({report.recipe}, {report.seconds:.1f} s)",
        ["", "size", "bits/weight", "types"],
        [
            [
                when,
                console.size(n),
                f"{bits:.2f}",
                ", ".join(f"{k} {console.size(v)}" for k, v in kinds.items()),
            ]
            for when, n, bits, kinds in (
                ("before", report.bytes_before, report.bits_before, report.types_before),
                ("after", report.bytes_after, report.bits_after, report.types_after),
            )
        ],
        numbers=(1, 2),
    )
    fallbacks(report.fallbacks)


def fallbacks(lines: tuple[str, ...]) -> None:
    """Tensors that are in another type than wanted; the first of many."""
    for line in lines[:5]:
        console.info(line)
    if len(lines) > 5:
        console.info(f"… and {len(lines) - 5} more tensors likewise (--dry-run shows all)")
