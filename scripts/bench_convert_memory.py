#!/usr/bin/env python3
"""Peak memory and time of `turbopilot convert` on a random checkpoint of a published CodeGen's geometry.

    python scripts/bench_convert_memory.py                 # CodeGen-350M's geometry, 0.8 GB of disk twice
    python scripts/bench_convert_memory.py --model 2B

Prints one line a run, and the bound that convert promises: twice the largest tensor plus 250 MB. Times are
beside those of copying the same file in the same run, since machines differ. Needs numpy and the program only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench.codegen_checkpoint import GEOMETRY, make_checkpoint, shapes


def run(*command: str) -> tuple[float, float]:
    """Seconds and peak resident bytes of a command of this Python's, by the kernel's own account."""
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.monotonic() - began, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=GEOMETRY, default="350M")
    parser.add_argument(
        "--folder", type=Path, help="where files are made (default: a temporary one)"
    )
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make_checkpoint(args.make, args.model)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as tmp:
        checkpoint, out = Path(tmp) / "checkpoint", Path(tmp) / "out.gguf"
        # In a process of its own: Linux counts the parent's peak as the child's.
        run(__file__, "--make", str(checkpoint), "--model", args.model)
        sources = sorted(checkpoint.glob("*.safetensors"))
        n_embd, n_layer, *_ = GEOMETRY[args.model]
        largest = max(2 * int(np.prod(s)) for s in shapes(n_embd, n_layer).values())
        bound = 2 * largest + 250e6
        print(
            f"CodeGen-{args.model}: {sum(s.stat().st_size for s in sources) / 1e9:.2f} GB, ", end=""
        )
        print(f"largest tensor {largest / 1e6:.0f} MB")
        for dtype in ("f16", "f32"):
            began = time.monotonic()
            for source in sources:
                shutil.copyfile(source, out)
            copied = time.monotonic() - began
            convert = ("-m", "turbopilot", "convert", str(checkpoint), "-o", str(out), "--force")
            seconds, peak = run(*convert, "--dtype", dtype)
            print(
                f"convert --dtype {dtype}: {seconds:.1f} s (cp {copied:.1f} s), peak {peak / 1e6:.0f} MB; "
                f"bound {bound / 1e6:.0f} MB: {'kept' if peak < bound else 'EXCEEDED'}"
            )


if __name__ == "__main__":
    main()
