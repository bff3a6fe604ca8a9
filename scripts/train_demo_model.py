#!/usr/bin/env python3
"""Train the bundled demo model: a small CodeGen on the Python standard library's source.

    python scripts/train_demo_model.py --out turbopilot/demo_model

The network is GPT-J's: one LayerNorm, attention and MLP in parallel, interleaved rotary embedding. It is implemented
here with fused attention, because that trains 1.5 times faster on a CPU than transformers' CodeGen. The exporter fuses
q, k and v into CodeGen's `qkv_proj`, loads the result with transformers and compares logits, so the written checkpoint
is a `CodeGenForCausalLM`.

The samples of step s depend only on the seed and s, so a run that was stopped and resumed from `--work` trains on the
same samples as an uninterrupted one. The learning rate is constant after the warm-up and falls linearly to zero over
the last quarter of `--steps`.

Needs `turbopilot[verify]` (torch, transformers). About two hours on two cores.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from demo.card import write_card
from demo.corpus import HELD_OUT, read_corpus
from demo.evaluation import gzip_bits_per_byte, model_bits_per_byte, ngram_bits_per_byte
from demo.export import export
from demo.network import DemoModel, Geometry, Muon
from demo.samples import Samples
from demo.tokenizer import train_tokenizer
from tokenizers import Tokenizer
from torch import Tensor


def learning_rate(step: int, steps: int) -> float:
    """Return the factor of the learning rate: warm-up over 200 steps, 1, then linear to 0 over the last quarter."""
    return min(1.0, (step + 1) / 200, (steps - step) / (0.25 * steps))


def batches(samples: Samples, steps: int, start: int, tokens: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (step, batch) with rows of 512 tokens, in the last quarter of 1024 to train positions beyond 512."""
    for step in range(start, steps):
        n = 512 if step < 0.75 * steps else 1024
        yield step, samples.batch(step, tokens // n, n)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("turbopilot/demo_model"), help="folder of the checkpoint"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/demo_model"),
        help="folder of the tokenizer and of the state to resume from",
    )
    parser.add_argument(
        "--stdlib",
        type=Path,
        default=Path(sysconfig.get_paths()["stdlib"]),
        help="standard library to train on",
    )
    parser.add_argument("--steps", type=int, default=4000, help="optimizer steps in total")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per step")
    parser.add_argument("--seed", type=int, default=20230813)
    parser.add_argument("--layers", type=int, default=Geometry.n_layer)
    parser.add_argument(
        "--export-only", action="store_true", help="evaluate and export the state in --work"
    )
    parser.add_argument(
        "--stop-after",
        type=float,
        default=math.inf,
        help="save the state and stop after this many minutes",
    )
    args = parser.parse_args()

    args.work.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus(args.stdlib)
    sizes = [
        sum(len(t.encode()) for t in part.values()) for part in (corpus.train, corpus.held_out)
    ]
    print(
        f"corpus {corpus.digest[:16]}: {len(corpus.train)} files, {sizes[0]:,} bytes; held out {sizes[1]:,} bytes"
    )
    tokenizer_file = args.work / "tokenizer.json"
    if not tokenizer_file.exists():
        train_tokenizer(corpus).save(str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))

    torch.manual_seed(args.seed)
    model = DemoModel(Geometry(n_layer=args.layers))
    matrices = [p for p in model.h.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=0.02),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.97), weight_decay=0.0),
    ]
    base_rates = [o.param_groups[0]["lr"] for o in optimizers]

    state_file = args.work / "state.pt"
    start, spent = 0, 0.0
    if state_file.exists():
        saved = torch.load(state_file, weights_only=True)
        model.load_state_dict(saved["model"])
        for o, s in zip(optimizers, saved["optimizers"], strict=True):
            o.load_state_dict(s)
        start, spent = saved["step"], saved["seconds"]
        print(f"resumed at step {start} after {spent / 60:.0f} minutes")

    def save(step: int) -> None:
        whole = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
        torch.save({**whole, "step": step, "seconds": spent}, state_file.with_suffix(".part"))
        state_file.with_suffix(".part").replace(state_file)

    if not args.export_only:
        samples = Samples(corpus, tokenizer, args.seed)
        print(
            f"{len(samples.stream):,} tokens, {sum(map(len, samples.texts)) / len(samples.stream):.2f} characters each"
        )
        began = last = time.monotonic()
        running = 0.0
        for step, batch in batches(samples, args.steps, start, args.tokens):
            for o, base in zip(optimizers, base_rates, strict=True):
                o.param_groups[0]["lr"] = base * learning_rate(step, args.steps)
                o.zero_grad(set_to_none=True)
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            for o in optimizers:
                o.step()
            running = loss.item() if not running else 0.98 * running + 0.02 * loss.item()
            now = time.monotonic()
            spent += now - last
            last = now
            if step % 50 == 0 or step + 1 == args.steps:
                rate = args.tokens * (step + 1 - start) / max(1e-9, now - began)
                print(
                    f"step {step:5d}  loss {running:.4f}  {rate:,.0f} tokens/s  {spent / 60:.1f} min",
                    flush=True,
                )
            if (step + 1) % 100 == 0 or step + 1 == args.steps:
                save(step + 1)
            if (step + 1) % 500 == 0:
                bits = model_bits_per_byte(model, tokenizer, corpus.held_out)
                print(f"step {step:5d}  held-out {bits:.4f} bits per byte", flush=True)
                last = time.monotonic()  # evaluation is not training time
            if now - began > 60 * args.stop_after:
                save(step + 1)
                sys.exit(0)

    held_out = "".join(corpus.held_out.values()).encode()
    figures = {
        "model": model_bits_per_byte(model, tokenizer, corpus.held_out),
        "5-gram byte model": ngram_bits_per_byte("".join(corpus.train.values()).encode(), held_out),
        "gzip -9": gzip_bits_per_byte(corpus.held_out),
    }
    facts: dict[str, Any] = {
        "bits_per_byte": figures, "held_out": list(HELD_OUT), "held_out_bytes": len(held_out),
        "train_bytes": sizes[0], "corpus_sha256": corpus.digest, "python": platform.python_version(),
        "steps": args.steps, "tokens_per_step": args.tokens, "seed": args.seed, "minutes": round(spent / 60, 1),
        "geometry": asdict(model.g),
    }  # fmt: skip
    for name, bits in figures.items():
        print(f"{name:20s} {bits:.3f} bits per byte")
    export(model, tokenizer, args.out)
    write_card(args.out, facts, corpus.held_out)


if __name__ == "__main__":
    main()
