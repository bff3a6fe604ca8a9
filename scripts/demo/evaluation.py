"""Held-out loss in bits per byte of the model and of two baselines."""

from __future__ import annotations

import math
import zlib

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from demo.network import DemoModel
from demo.tokenizer import EOS, token_id


@torch.no_grad()
def model_bits_per_byte(
    model: DemoModel, tokenizer: Tokenizer, texts: dict[str, str], stride: int = 512
) -> float:
    """Return the held-out loss in bits per UTF-8 byte, with at least 512 tokens of context if the file has them."""
    model.eval()
    n = model.g.n_positions
    eos = token_id(tokenizer, EOS)
    nats, size = 0.0, 0
    for text in texts.values():
        ids = torch.tensor([eos, *tokenizer.encode(text).ids])
        size += len(text.encode())
        done = 1
        for start in range(0, max(1, len(ids) - 1), stride):
            window = ids[start : start + n]
            first = done - start  # first position of this window that is not counted yet
            if first >= len(window):
                break
            logits = model(window[None, :-1])[0]
            nats += float(F.cross_entropy(logits[first - 1 :], window[first:], reduction="sum"))
            done = start + len(window)
    model.train()
    return nats / math.log(2) / size


def ngram_bits_per_byte(train: bytes, test: bytes, order: int = 5) -> float:
    """Return the bits per byte of an interpolated Witten-Bell byte model of the given order."""
    a = np.frombuffer(train, dtype=np.uint8).astype(np.int64)
    b = np.frombuffer(test, dtype=np.uint8).astype(np.int64)
    prob = np.full(len(b), 1 / 256)

    def contexts(x: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
        """Pack the k bytes before each position into one integer; bytes before the beginning are 0."""
        packed = np.zeros(len(x), dtype=np.int64)
        for i in range(1, k + 1):
            packed[i:] += x[: len(x) - i] << (8 * (i - 1))
        return packed

    def count(
        keys: npt.NDArray[np.int64], n: npt.NDArray[np.int64], at: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        i = np.minimum(np.searchsorted(keys, at), len(keys) - 1)
        return np.where(keys[i] == at, n[i], 0)

    for k in range(order):
        ca, cb = contexts(a, k), contexts(b, k)
        grams, gram_n = np.unique((ca << 8) | a, return_counts=True)
        ctx, ctx_n = np.unique(ca, return_counts=True)
        kinds, kinds_n = np.unique(grams >> 8, return_counts=True)
        seen, distinct = count(ctx, ctx_n, cb), count(kinds, kinds_n, cb)
        hits = count(grams, gram_n, (cb << 8) | b)
        prob = np.where(seen > 0, (hits + distinct * prob) / np.maximum(seen + distinct, 1), prob)
    return float(-np.log2(prob).mean())


def gzip_bits_per_byte(texts: dict[str, str]) -> float:
    """Return the bits per byte of zlib level 9 (gzip's method) on all files as one stream, which favors it."""
    data = "".join(texts.values()).encode()
    return 8 * len(zlib.compress(data, 9)) / len(data)
