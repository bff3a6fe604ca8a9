#!/usr/bin/env python3
"""Peak memory and time of `turbopilot convert` on a random checkpoint of a published CodeGen's geometry.

    python scripts/bench_convert_memory.py                 # CodeGen-350M's geometry, 0.8 GB of disk twice
    python scripts/bench_convert_memory.py --model 2B

Prints one line a run, and the bound that convert promises: twice the largest tensor plus 250 MB. Times are
beside those of copying the same file in the same run, since machines differ. Needs numpy and the program only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from turbopilot.commands.resolve import demo_checkpoint

# n_embd, n_layer, n_head, rotary_dim as published (Salesforce's config.json)
GEOMETRY = {"350M": (1024, 20, 16, 32), "2B": (2560, 32, 32, 64), "6B": (4096, 33, 16, 64)}
VOCAB = 51200


def shapes(n_embd: int, n_layer: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of CodeGen's tensors."""
    d = n_embd
    out: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (VOCAB, d)}
    for i in range(n_layer):
        at = f"transformer.h.{i}."
        out |= {
            at + "ln_1.weight": (d,),
            at + "ln_1.bias": (d,),
            at + "attn.qkv_proj.weight": (3 * d, d),
        }
        out |= {
            at + "attn.out_proj.weight": (d, d),
            at + "mlp.fc_in.weight": (4 * d, d),
            at + "mlp.fc_in.bias": (4 * d,),
        }
        out |= {at + "mlp.fc_out.weight": (d, 4 * d), at + "mlp.fc_out.bias": (d,)}
    return out | {
        "transformer.ln_f.weight": (d,),
        "transformer.ln_f.bias": (d,),
        "lm_head.weight": (VOCAB, d),
        "lm_head.bias": (VOCAB,),
    }


def make_checkpoint(folder: Path, model: str) -> None:
    """Write a random F16 checkpoint, tensor by tensor."""
    n_embd, n_layer, n_head, rotary = GEOMETRY[model]
    config = json.loads((demo_checkpoint() / "config.json").read_text())
    config |= {
        "n_embd": n_embd,
        "n_layer": n_layer,
        "n_head": n_head,
        "rotary_dim": rotary,
        "vocab_size": VOCAB,
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(demo_checkpoint() / "tokenizer.json", folder / "tokenizer.json")
    sizes = {name: 2 * int(np.prod(shape)) for name, shape in shapes(n_embd, n_layer).items()}
    header, at = {}, 0
    for name, shape in shapes(n_embd, n_layer).items():
        header[name] = {
            "dtype": "F16",
            "shape": list(shape),
            "data_offsets": [at, at + sizes[name]],
        }
        at += sizes[name]
    raw = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as f:
        f.write(len(raw).to_bytes(8, "little") + raw)
        for shape in shapes(n_embd, n_layer).values():
            f.write(rng.standard_normal(shape, np.float32).astype(np.float16).tobytes())


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
        source = checkpoint / "model.safetensors"
        n_embd, n_layer, *_ = GEOMETRY[args.model]
        largest = max(2 * int(np.prod(s)) for s in shapes(n_embd, n_layer).values())
        bound = 2 * largest + 250e6
        print(f"CodeGen-{args.model}: {source.stat().st_size / 1e9:.2f} GB, ", end="")
        print(f"largest tensor {largest / 1e6:.0f} MB")
        for dtype in ("f16", "f32"):
            began = time.monotonic()
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
