#!/usr/bin/env python3
"""Measure the prefill and decode speed of every quantization type on this CPU, relative to F16.

    python scripts/bench_types.py                       # CodeGen-350M's geometry, random weights: half an hour
    python scripts/bench_types.py --types Q4_K_M,Q4_0   # some of them

Random weights suffice, because the speed does not depend on their values. For each type the model is quantized,
measured by turns with the F16 file (the result is the median of the rounds), and deleted. The percentages are the
source of turbopilot/catalog/prompt_speed.py.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from bench.random_checkpoint import GEOMETRY, make_checkpoint

from converters import convert
from quantize import RECIPES, QuantizeOptions, quantize
from quantize.imatrix import Entry, Imatrix, write_imatrix
from turbopilot.base.machine import cpu_name, usable_cores
from turbopilot.bench import Cell, Setup, SpeedTask, measure_in_turn
from turbopilot.formats.gguf.file import read_gguf


def flat_matrix(model: Path, path: Path) -> Path:
    """Write an importance matrix with equal weights, for the types that need a matrix."""
    entries = {
        t.name: Entry(np.ones((1, t.shape[0]), np.float32), np.ones(1, np.int64))
        for t in read_gguf(model).tensors
        if len(t.shape) == 2
    }
    write_imatrix(path, Imatrix(entries, ("ones",), 1, 1))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--geometry", choices=GEOMETRY, default="350M")
    parser.add_argument("--types", default="", help="comma-separated types (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--generate", type=int, default=24, help="tokens to generate")
    parser.add_argument(
        "--folder", type=Path, help="folder for temporary files; needs 2 GB for 350M"
    )
    a = parser.parse_args()
    wanted = [t for t in a.types.upper().split(",") if t] or [r.name for r in RECIPES]
    print(f"CodeGen-{a.geometry}'s geometry, {cpu_name()}, {usable_cores()} threads")
    with tempfile.TemporaryDirectory(dir=a.folder) as name:
        folder = Path(name)
        make_checkpoint(folder / "checkpoint", a.geometry)
        f16 = folder / "f16.gguf"
        convert(folder / "checkpoint", f16)
        ones = flat_matrix(f16, folder / "ones.gguf")
        print(f"{'type':10} {'MB':>6} {'prompt':>8} {'of F16':>7} {'generated':>10} {'of F16':>7}")
        for kind in wanted:
            one = folder / f"{kind}.gguf"
            quantize(f16, one, kind, QuantizeOptions(imatrix=ones))
            cells = [
                Cell(path, Setup(n_ctx=a.prompt + a.generate, n_outputs=1)) for path in (f16, one)
            ]
            speed = SpeedTask(a.prompt, a.generate, a.rounds)
            base, found = measure_in_turn(cells, speed=speed, memory=False)
            one.unlink()
            pairs = ((found.prompt, base.prompt), (found.generation, base.generation))
            rates = [(x.median, 100 * x.median / y.median) for x, y in pairs if x and y]
            columns = "".join(f"{rate:7.1f}/s {share:6.0f}%" for rate, share in rates)
            print(f"{kind:10} {found.n_bytes / 1e6:6.0f} {columns}", flush=True)


if __name__ == "__main__":
    main()
