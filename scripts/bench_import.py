#!/usr/bin/env python3
"""Compare `turbopilot convert` of an old ggml file with cp of the same file.

    python scripts/bench_import.py                 # CodeGen-6B's geometry in Q4_0: 4 GB; needs 8 GB of disk
    python scripts/bench_import.py --model 350M --type Q8_0

The file has random weights in GPT-J's layout, so that q and k are permuted. Each round runs cp and the import one
after the other. The results are the medians of the rounds, for seconds and for peak memory.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
from bench.measured import Run, measure, medians, warm
from bench.random_checkpoint import GEOMETRY, POSITIONS, VOCAB, Shape, shapes

from converters.tokenizer.looks import BYTE_LETTERS
from turbopilot.app.resolve import demo_checkpoint

# name → (ggml_type, ggml_ftype, weights per block, bytes per block)
TYPES = {
    "F16": (1, 1, 1, 2),
    "Q4_0": (2, 2, 32, 18),
    "Q5_1": (7, 9, 32, 24),
    "Q8_0": (8, 7, 32, 34),
}
CHUNK = 64 << 20


def gptj_shapes(n_embd: int, n_layer: int) -> dict[str, Shape]:
    """Return CodeGen's tensors in GPT-J's layout, with separate q, k and v."""
    out: dict[str, Shape] = {}
    for name, shape in shapes(n_embd, n_layer).items():
        parts = ("k", "v", "q") if "qkv" in name else ("qkv",)
        rows = n_embd if "qkv" in name else shape[0]
        out |= {name.replace("qkv", part): (rows, *shape[1:]) for part in parts}
    return out


def make_file(path: Path, model: str, type_name: str) -> None:
    """Write a file of random blocks with a scale of 0.01."""
    n_embd, n_layer, n_head, rotary = GEOMETRY[model]
    kind, ftype, weights, block = TYPES[type_name]
    tokens = json.loads((demo_checkpoint() / "tokenizer.json").read_text())["model"]["vocab"]
    words = [bytes(BYTE_LETTERS.index(c) for c in text) for text in sorted(tokens, key=tokens.get)]
    words += [b"<|endoftext|>"] * (VOCAB - len(words))
    rng = np.random.default_rng(0)
    with path.open("wb") as f:
        f.write(
            b"lmgg"
            + struct.pack("<7i", VOCAB, POSITIONS, n_embd, n_head, n_layer, rotary, 2000 + ftype)
        )
        f.write(struct.pack("<i", VOCAB))
        f.writelines(struct.pack("<i", len(word)) + word for word in words)
        for name, shape in gptj_shapes(n_embd, n_layer).items():
            matrix = len(shape) == 2
            f.write(struct.pack("<3i", len(shape), len(name), kind if matrix else 0))
            f.write(struct.pack(f"<{len(shape)}i", *shape[::-1]) + name.encode())
            n = int(np.prod(shape))
            if not matrix:
                f.write(rng.standard_normal(n, np.float32).tobytes())
                continue
            left = n // weights * block
            while left:
                size = min(left, CHUNK // block * block)
                raw = rng.integers(0, 256, (size // block, block), np.uint8)
                raw[:, :2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
                f.write(raw.tobytes())
                left -= size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=GEOMETRY, default="6B")
    parser.add_argument("--type", choices=TYPES, default="Q4_0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="folder for temporary files (default: the system's)"
    )
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make_file(args.make, args.model, args.type)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as tmp:
        old, out = Path(tmp, "old.bin"), Path(tmp, "out.gguf")
        # In a child process: Linux counts a parent's peak memory as its later children's.
        measure(
            sys.executable, __file__, "--make", str(old), "--model", args.model, "--type", args.type
        )
        size = old.stat().st_size
        print(f"CodeGen-{args.model} in {args.type}: {size / 1e9:.2f} GB")
        convert = (sys.executable, "-m", "turbopilot", "convert")
        commands = {
            "cp": ("cp", str(old), str(out)),
            "turbopilot convert": (*convert, str(old), "-o", str(out)),
        }
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                warm(Path(tmp), size)
                if (run := measure(*command)) is not None:
                    runs[name].append(run)
                out.unlink()
    found = medians(runs)
    print(f"import / cp: {found['turbopilot convert'].seconds / found['cp'].seconds:.2f}")


if __name__ == "__main__":
    main()
