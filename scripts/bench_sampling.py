#!/usr/bin/env python3
"""Compare the time of our NumPy sampler with that of llama.cpp's sampler chain, with the same settings.

    python scripts/bench_sampling.py
    python scripts/bench_sampling.py --logits rows.npy      # of a real model: (rows, n_vocab) float32

Both start with a row of logits from llama_decode and end with a token id. They run by turns on the same rows. The
results are the medians of the rounds, and our time as a percentage of llama.cpp's. The default rows are random and
decrease with the rank like a model's: the most likely token has a probability of about one half, and a dozen tokens
have 95 %.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np

from serve.decoder import Logits
from serve.request import SamplingParams
from serve.sampling import Sampler, logprobs, seed_sequence
from turbopilot.base.machine import cpu_name

TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
ROWS = 16
Choose = Callable[[Logits], int]


def params(**changes: object) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, "top_p": 1.0, **changes})  # type: ignore[arg-type]


def theirs(n_vocab: int, p: SamplingParams, history: list[int]) -> Choose:
    """Return a function that chooses a token with llama.cpp's sampler chain from NumPy logits."""
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())

    def add(sampler: object) -> None:
        llama_cpp.llama_sampler_chain_add(chain, sampler)

    if p.penalizes:
        add(
            llama_cpp.llama_sampler_init_penalties(
                n_vocab,
                p.repeat_last_n,
                p.repeat_penalty,
                p.frequency_penalty,
                p.presence_penalty,
            )
        )
    if p.temperature == 0:
        add(llama_cpp.llama_sampler_init_greedy())
    else:
        add(llama_cpp.llama_sampler_init_temp(p.temperature))
        if p.top_k:
            add(llama_cpp.llama_sampler_init_top_k(p.top_k))
        if p.top_p < 1:
            add(llama_cpp.llama_sampler_init_top_p(p.top_p, 1))
        if p.min_p > 0:
            add(llama_cpp.llama_sampler_init_min_p(p.min_p, 1))
        add(llama_cpp.llama_sampler_init_dist(1))
    for token in history:
        llama_cpp.llama_sampler_accept(chain, token)

    data = np.zeros(n_vocab, dtype=TOKEN_DATA)
    ids = np.arange(n_vocab, dtype=np.int32)
    pointer = data.ctypes.data_as(llama_cpp.llama_token_data_p)

    def choose(row: Logits) -> int:
        data["id"], data["logit"] = ids, row
        array = llama_cpp.llama_token_data_array(pointer, n_vocab, -1, False)
        llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
        token = int(data["id"][array.selected])
        llama_cpp.llama_sampler_accept(chain, token)
        return token

    return choose


def ours(p: SamplingParams, history: list[int]) -> Choose:
    sampler = Sampler(p, seed_sequence(1, 0))

    def choose(row: Logits) -> int:
        token = sampler.pick(row, history)
        sampler.accept(token)
        return token

    return choose


def made_up(n_vocab: int) -> Logits:
    rng = np.random.default_rng(0)
    rank = 1 + np.array([rng.permutation(n_vocab) for _ in range(ROWS)])
    rows: Logits = (18 - 2 * np.log(rank) + rng.standard_normal(rank.shape)).astype(np.float32)
    return rows


def microseconds(choose: Choose, rows: Logits) -> float:
    started = time.perf_counter()
    for row in rows:
        choose(row)
    return (time.perf_counter() - started) / len(rows) * 1e6


SETTINGS = {
    "greedy": params(temperature=0.0),
    "greedy, penalties over 64": params(temperature=0.0, repeat_penalty=1.1, presence_penalty=0.5),
    "temperature 0.2, top_p 0.95": params(temperature=0.2, top_p=0.95),
    "temperature 1, top_p 0.95": params(top_p=0.95),
    "temperature 1 alone": params(),
    "top_k 40, top_p, min_p, t. 0.8": params(top_k=40, top_p=0.95, min_p=0.05, temperature=0.8),
    "min_p 0.05": params(min_p=0.05),
    "penalties, temperature 0.2, top_p": params(
        repeat_penalty=1.1, frequency_penalty=0.2, temperature=0.2, top_p=0.95
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--logits", type=Path, help=".npy file of logits to use instead of random ones"
    )
    a = parser.parse_args()
    print(cpu_name())
    tables = [np.load(a.logits)] if a.logits else [made_up(n) for n in (49_152, 151_936)]
    for rows in tables:
        n_vocab = rows.shape[1]
        rows.setflags(write=False)
        history = np.random.default_rng(1).integers(0, n_vocab, 2000).tolist()
        print(f"\n{n_vocab} tokens{'':27} NumPy   llama.cpp   NumPy's time")
        for name, p in SETTINGS.items():
            both = (ours(p, history), theirs(n_vocab, p, history))
            times = [[microseconds(choose, rows) for choose in both] for _ in range(a.rounds)]
            mine, other = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{name:34} {mine:6.0f} us {other:8.0f} us {100 * mine / other:9.0f} %")
        told = statistics.median(
            microseconds(lambda row: logprobs(row, 0, 5, lambda _: b"").token.id, rows)
            for _ in range(a.rounds)
        )
        print(f"{'log probabilities, top 5':34} {told:6.0f} us")


if __name__ == "__main__":
    main()
