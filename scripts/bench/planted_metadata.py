"""Faults in the metadata of a GGUF file, for `bench_judge`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from turbopilot.formats.gguf.edit import set_metadata

if TYPE_CHECKING:
    from bench.planted_faults import Plant, PlantedFile


def number(key: str, change: Callable[[float], float]) -> Plant:
    """Return a fault that changes a number of the metadata; "{a}" in the key is the architecture."""

    def plant(f: PlantedFile, rng: np.random.Generator) -> list[str]:
        for spelt in key.split("|"):
            if f.patch(spelt.replace("{a}", f.header.architecture), change):
                return [spelt.removeprefix("{a}."), "epsilon", "RoPE base"]
        return []

    return plant


def merge(f: PlantedFile, rng: np.random.Generator) -> list[str]:
    key = "tokenizer.ggml.merges"
    merges = f.header.metadata.get(key)
    if not isinstance(merges, list):
        return []
    lost = int(rng.integers(len(merges)))
    set_metadata(f.path, {key: [str(m) for i, m in enumerate(merges) if i != lost]}, remove=key)
    return ["merge"]


def vocabulary(f: PlantedFile, rng: np.random.Generator) -> list[str]:
    key = "tokenizer.ggml.tokens"
    tokens = [str(t) for t in f.header.metadata[key]]  # type: ignore[union-attr]
    last = max(i for i, t in enumerate(tokens) if not t.startswith("[PAD")) + 1
    for i in range(last - 8, last):
        tokens[i] = f"[PAD{i}]"
    set_metadata(f.path, {key: tokens}, remove=key)
    return ["vocabulary", "token "]


def infilling(f: PlantedFile, rng: np.random.Generator) -> list[str]:
    before, after = (f"tokenizer.ggml.fim_{part}_token_id" for part in ("pre", "suf"))
    ids = f.header.metadata.get(before), f.header.metadata.get(after)
    if None in ids:
        return []
    f.patch(before, lambda _: ids[1])
    f.patch(after, lambda _: ids[0])
    return ["fim_pre", "fim_suf", "fill-in-the-middle"]


def splitting(f: PlantedFile, rng: np.random.Generator) -> list[str]:
    key = "tokenizer.ggml.pre"
    given = f.header.metadata.get(key)
    other = str(rng.choice([n for n in ("gpt-2", "llama-bpe", "qwen2", "starcoder") if n != given]))
    set_metadata(f.path, {key: other}, remove=key)
    return [key]


def beginning(f: PlantedFile, rng: np.random.Generator) -> list[str]:
    key = "tokenizer.ggml.add_bos_token"
    if f.header.metadata.get(key):
        return []
    set_metadata(f.path, {key: True}, remove=key)
    return ["add_bos"]
