#!/usr/bin/env python3
"""Where the time of `turbopilot verify` goes: PyTorch's side, llama.cpp's, and the figures.

    python scripts/bench_verify.py                          # the bundled model
    python scripts/bench_verify.py --against FOLDER a.gguf  # any other

Each file is verified in a process of its own: once with nothing kept, then with PyTorch's part kept from before.
PyTorch's side is everything but the rest: starting it, its logits, its own answer to noise, tokens, continuations.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TYPES = ("f32", "f16", "q8_0", "q4_0")


def verify(path: Path, against: str) -> tuple[float, dict[str, float], int]:
    """Seconds in all, what they went into, and how many positions were compared."""
    command = [
        sys.executable,
        "-m",
        "turbopilot",
        "verify",
        str(path),
        "--against",
        against,
        "--json",
    ]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    wall = time.monotonic() - began
    if done.returncode not in (0, 7):
        raise SystemExit(done.stderr)
    report = json.loads(done.stdout)
    return wall, report["seconds"], report["metrics"]["positions"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="*", help="by default some of the bundled model")
    parser.add_argument("--against", default="demo", help="their checkpoint")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        os.environ["TURBOPILOT_CACHE"] = tmp
        files = args.files or _demo(Path(tmp))
        print(
            f"{'file':16} {'all':>7} {'PyTorch':>8} {'llama.cpp':>10} {'figures':>8}   llama.cpp + figures / PyTorch"
        )
        for kept in (False, True):
            print("with PyTorch's part kept from before:" if kept else "with nothing kept:")
            for path in files:
                if not kept:
                    _forget(Path(tmp))
                wall, seconds, positions = verify(path, args.against)
                ours = seconds["candidate"] + seconds["metrics"]
                print(
                    f"{path.name:16} {wall:6.1f}s {wall - ours:7.1f}s {seconds['candidate']:9.2f}s "
                    f"{seconds['metrics']:7.2f}s   {ours / (wall - ours):.0%} ({positions:,} positions)"
                )


def _demo(folder: Path) -> list[Path]:
    """The bundled model in some types."""
    from converters import convert
    from quantize import quantize
    from turbopilot.app.resolve import demo_checkpoint

    convert(demo_checkpoint(), folder / "f32.gguf", dtype="f32")
    convert(demo_checkpoint(), folder / "f16.gguf", dtype="f16")
    for name in TYPES[2:]:
        quantize(folder / "f32.gguf", folder / f"{name}.gguf", name.upper())
    return [folder / f"{name}.gguf" for name in TYPES]


def _forget(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder / "reference", ignore_errors=True)


if __name__ == "__main__":
    main()
