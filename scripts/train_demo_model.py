#!/usr/bin/env python3
r"""Train the bundled demo model: a small CodeGen on Python source with permissive licences.

    pip download --no-deps --only-binary=:all: --python-version 3.13 --platform manylinux_2_28_x86_64 \
        -d build/wheels -r scripts/demo/packages.txt
    nice -n 19 python scripts/train_demo_model.py --packages build/wheels --init turbopilot/demo_model --minutes 90

The network is GPT-J's: one LayerNorm, attention and MLP in parallel, interleaved rotary embedding. The exporter fuses
q, k and v into CodeGen's `qkv_proj`, loads the result with transformers and compares logits, so the written checkpoint
is a `CodeGenForCausalLM`.

The training can be interrupted: it saves its state in `--work` at each evaluation and at SIGTERM, and resumes from
there. Its length is a budget of minutes, at whose end the learning rate has fallen to zero; when other programs use the
processor, it makes fewer steps. The weights of the best held-out loss are exported.

With `--init`, the training starts from a checkpoint and its tokenizer, and the card compares both; `--init` and
`--out` may be the same folder.

Needs `turbopilot[verify]` (torch, transformers), and a processor with BF16 instructions to be fast.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sysconfig
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

# The tokenizer's threads do not survive the fork of the workers.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from demo.card import completions, write_card
from demo.corpus import HELD_OUT, Corpus, read_corpus
from demo.evaluation import (
    Completer,
    exact_match,
    gzip_bits_per_byte,
    model_bits_per_byte,
    ngram_bits_per_byte,
    quick_bits_per_byte,
)
from demo.export import export, load_checkpoint
from demo.network import DemoModel, Geometry
from demo.samples import Samples
from demo.streams import cached
from demo.tokenizer import train_tokenizer
from demo.training import Plan, Training
from tokenizers import Tokenizer

SEED = 20230813


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, plan = parser.add_argument, Plan()
    add(
        "--out",
        type=Path,
        default=Path("turbopilot/demo_model"),
        help="folder of the checkpoint to write",
    )
    add(
        "--work",
        type=Path,
        default=Path("build/demo_model"),
        help="folder of the state to resume from",
    )
    add(
        "--stdlib",
        type=Path,
        default=Path(sysconfig.get_paths()["stdlib"]),
        help="standard library of Python 3.11",
    )
    add("--packages", type=Path, help="folder with the wheels of scripts/demo/packages.txt")
    add("--init", type=Path, help="checkpoint to start from")
    add("--layers", type=int, default=Geometry.n_layer, help="layers, without --init")
    add("--minutes", type=float, default=plan.minutes, help="budget of the whole training")
    add(
        "--stop-after",
        type=float,
        default=math.inf,
        help="save the state and stop after this many minutes",
    )
    add("--tokens", type=int, default=plan.tokens, help="tokens per step")
    add("--rate", type=float, default=plan.rate, help="factor of the learning rates")
    add(
        "--decay",
        type=float,
        default=plan.decay,
        help="share of the budget in which the learning rate falls",
    )
    add("--evaluate", type=int, default=plan.evaluate, help="steps between evaluations")
    add(
        "--patience",
        type=int,
        default=plan.patience,
        help="evaluations without a better loss before the end",
    )
    add("--workers", type=int, default=plan.workers, help="processes with one thread each")
    add(
        "--infilling",
        type=Path,
        help="HumanEval-SingleLineInfilling.jsonl.gz, to measure exact matches",
    )
    add("--export-only", action="store_true", help="evaluate and export the best weights in --work")
    return parser.parse_args()


def start(args: argparse.Namespace, corpus: Corpus) -> tuple[DemoModel, Tokenizer]:
    """Return the network to train and its tokenizer; keep a copy of the checkpoint that they come from in --work."""
    torch.manual_seed(SEED)
    before, tokenizer_file = args.work / "before", args.work / "tokenizer.json"
    if args.init and not before.exists():
        shutil.copytree(args.init, before)
    if before.exists():
        return load_checkpoint(before), Tokenizer.from_file(str(before / "tokenizer.json"))
    if not tokenizer_file.exists():
        train_tokenizer(corpus).save(str(tokenizer_file))
    return DemoModel(Geometry(n_layer=args.layers)), Tokenizer.from_file(str(tokenizer_file))


def measured(folder: Path, corpus: Corpus, tasks: Path | None) -> dict[str, float]:
    """Return a checkpoint's figures."""
    model, completer = load_checkpoint(folder), Completer(folder)
    found = {"bits per byte": model_bits_per_byte(model, completer.tokenizer, corpus.held_out)}
    if tasks:
        for order in ("psm", "spm"):
            found[f"exact match, {order}"] = exact_match(completer, tasks, order)
    return found


def earlier_tokens(folder: Path) -> int:
    """Return the number of tokens that a checkpoint was trained on; 0 if there is none."""
    file = folder / "training.json"
    facts = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return int(facts.get("tokens") or facts.get("steps", 0) * facts.get("tokens_per_step", 0))


def report(args: argparse.Namespace, corpus: Corpus, training: Training) -> dict[str, Any]:
    """Return the facts of the card and of training.json; `--out` already has the new checkpoint."""
    before = args.work / "before"
    folders = {"before": before, "after": args.out} if before.exists() else {"after": args.out}
    held_out = "".join(corpus.held_out.values()).encode()
    stdlib = "".join(text for name, text in corpus.train.items() if name.startswith("stdlib/"))
    return {
        "figures": {name: measured(folder, corpus, args.infilling) for name, folder in folders.items()},
        "baselines": {
            "5-gram byte model": ngram_bits_per_byte(stdlib.encode(), held_out),
            "gzip -9": gzip_bits_per_byte(corpus.held_out),
        },
        "weights": sum(p.numel() for p in training.shared.model.parameters()),
        "geometry": asdict(training.shared.model.g),
        "tokens": training.tokens + earlier_tokens(before), "new_tokens": training.tokens,
        "steps": training.step, "minutes": round(training.seconds / 60, 1),
        "workers": training.plan.workers, "seed": SEED,
        "held_out": list(HELD_OUT), "held_out_bytes": len(held_out), "corpus_sha256": corpus.digest,
        "train_bytes": sum(s.bytes for s in corpus.sources), "sources": [asdict(s) for s in corpus.sources],
        "completions": {name: completions(folder, corpus.held_out) for name, folder in folders.items()},
    }  # fmt: skip


def main() -> None:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus(args.stdlib, args.packages)
    total = sum(s.bytes for s in corpus.sources)
    print(f"corpus {corpus.digest[:16]}: {len(corpus.train):,} files, {total:,} bytes", flush=True)
    model, tokenizer = start(args, corpus)
    streams = cached(corpus, tokenizer, SEED, args.work)
    print(
        f"{len(streams[0].ids):,} tokens of files, {len(streams[1].ids):,} of functions", flush=True
    )
    plan = Plan(**{f.name: getattr(args, f.name) for f in fields(Plan)})
    training = Training(model, Samples(corpus, streams, tokenizer, SEED), plan, args.work)
    if not args.export_only and not training.run(
        lambda m: quick_bits_per_byte(m, tokenizer, corpus.held_out)
    ):
        return
    model.load_state_dict(training.best_weights())
    export(model, tokenizer, args.out)
    write_card(args.out, report(args, corpus, training))


if __name__ == "__main__":
    main()
