#!/usr/bin/env python3
"""Measure what the reuse of a sliding window costs in accuracy and saves in time.

    python scripts/bench_reuse.py MODEL.gguf
    python scripts/bench_reuse.py MODEL.gguf --lines 120 --steps 40 --text file.py

A window of lines slides through a text, one line at a time. After each step, the next token's distribution is compared
with that of the same window in an empty KV cache (KL divergence in nats, and whether the likeliest token is the same):

    grown        as `serve` does: lines that left the window stay in front of it, up to half of the window
    moved        the remaining lines are moved at every step; the first tokens stay in front
    moved, bare  the same, but nothing stays in front

The times are those of a step, without and with reuse.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from serve.decoder import Logits
from serve.engine.reuse import LEAST_GAIN, find_reuse
from turbopilot.corpus import excerpts
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.context import ContextParameters, LlamaContext
from turbopilot.llama.model import LlamaModel, ModelParameters


@dataclass
class Way:
    """One way of reuse, with its results.

    Attributes:
        growth: whether the sequence may be longer than the window.
        sink: whether the first tokens stay in front.
    """

    name: str
    growth: bool
    sink: bool
    cached: list[int] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    n_moves: int = 0


def windows(text: str, n_lines: int, n_steps: int) -> Iterator[str]:
    lines = [line for line in text.splitlines(keepends=True) if line.strip()]
    for i in range(n_steps + 1):
        yield "".join(lines[i : i + n_lines])


def read(context: LlamaContext, tokens: Sequence[int], start: int) -> Logits:
    """Compute the tokens from `start` on; return the last one's log probabilities in float64."""
    row = np.empty(0)
    for at in range(start, len(tokens), context.n_batch):
        piece = tokens[at : at + context.n_batch]
        row = context.read(piece, at, range(at + len(piece) - 1, at + len(piece)))[0]
    x = row.astype(np.float64)
    return x - np.logaddexp.reduce(x)  # type: ignore[no-any-return]


def step(context: LlamaContext, way: Way, prompt: list[int], window: int) -> Logits:
    """Compute a window, reusing the cached one."""
    room = context.n_cells if way.growth else len(prompt) + 8
    found = find_reuse(
        way.cached, prompt, window, room, context.model.piece, can_move=context.can_move
    )
    if found is None or not way.cached:
        context.clear()
        way.cached = prompt
        return read(context, prompt, 0)
    pieces, tokens = found.pieces, found.tokens
    if found.is_moved and not way.sink:
        n_front = pieces[0][1]
        pieces, tokens = pieces[1:], tokens[n_front:]
    context.move(0, pieces)
    way.n_moves += found.is_moved
    way.cached = tokens
    return read(context, tokens, sum(n for _, n in pieces))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--lines", type=int, default=120, help="lines of the window")
    parser.add_argument("--steps", type=int, default=40, help="number of steps")
    parser.add_argument("--text", type=Path, help="default: code of the held-out corpus")
    args = parser.parse_args()
    text = (
        args.text.read_text("utf-8")
        if args.text
        else "".join(e.text for e in excerpts("held_out") if e.language == "python")
    )
    model = LlamaModel(read_gguf(args.model), ModelParameters())
    n_ctx = min(model.n_ctx_train, 4096)
    parameters = ContextParameters(n_ctx=n_ctx, n_batch=512)
    head = [model.bos] if model.adds_bos else []
    prompts = [
        head + model.tokenize(w, parse_special=False) for w in windows(text, args.lines, args.steps)
    ]
    if max(map(len, prompts)) > n_ctx or len(prompts[-1]) < 2 * LEAST_GAIN:
        raise SystemExit(
            f"{args.model}: the windows do not fit: give other --lines, or a longer --text"
        )
    reference = LlamaContext(model, parameters)
    if not reference.can_move:
        raise SystemExit(f"{args.model}: this model's tokens cannot be moved")
    ways = [Way("grown", True, True), Way("moved", False, True), Way("moved, bare", False, False)]
    contexts = [LlamaContext(model, parameters) for _ in ways]
    fresh = []
    for i, prompt in enumerate(prompts):
        began = time.perf_counter()
        reference.clear()
        expected = read(reference, prompt, 0)
        fresh.append(time.perf_counter() - began)
        for way, context in zip(ways, contexts, strict=True):
            began = time.perf_counter()
            found = step(context, way, prompt, len(head))
            if i:
                way.seconds.append(time.perf_counter() - began)
                way.kl.append(float(np.sum(np.exp(expected) * (expected - found))))
                way.same.append(bool(expected.argmax() == found.argmax()))
    print(
        f"{args.model.name}: windows of {min(map(len, prompts))} to {max(map(len, prompts))} tokens"
    )
    print(f"read again   {1000 * statistics.median(fresh):7.0f} ms")
    for way in ways:
        print(
            f"{way.name:12} {1000 * statistics.median(way.seconds):7.0f} ms   mean KL {statistics.mean(way.kl):.4f}, "
            f"largest {max(way.kl):.4f}   same token {sum(way.same)} of {len(way.same)}   moves {way.n_moves}"
        )


if __name__ == "__main__":
    main()
