"""Held-out loss in bits per byte, of the model and of two baselines; greedy completions and their exact matches."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from demo.network import DemoModel
from demo.tokenizer import EOS, FIM, token_id

QUICK_CHARS = 20_000  # of each file, for the evaluations during the training


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


def quick_bits_per_byte(model: DemoModel, tokenizer: Tokenizer, texts: dict[str, str]) -> float:
    """Return the loss on the beginning of each file, in windows that hardly overlap, in BF16."""
    beginnings = {name: text[:QUICK_CHARS] for name, text in texts.items()}
    with torch.autocast("cpu", torch.bfloat16):
        return model_bits_per_byte(model, tokenizer, beginnings, stride=model.g.n_positions - 1)


class Completer:
    """Greedy completions of a checkpoint, computed by transformers."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._eos, *self._fim = (token_id(self.tokenizer, t) for t in (EOS, *FIM))

    def plain(self, prefix: str, max_tokens: int = 64) -> str:
        """Return the completion of a prefix alone; it ends with end-of-text or after `max_tokens`."""
        return self._complete(self.tokenizer.encode(prefix).ids[-960:], max_tokens)

    def fill(
        self,
        prefix: str,
        suffix: str,
        max_tokens: int = 64,
        *,
        stop: str = "",
        order: str = "psm",
    ) -> str:
        """Return the text between a prefix and a suffix, in order psm or spm, up to `stop` if it is given."""
        before, after = (e.ids for e in self.tokenizer.encode_batch([prefix, suffix]))
        pre, suf, mid = self._fim
        before, after = before[-640:], after[:300]
        spm = [pre, suf, *after, mid, *before]
        prompt = spm if order == "spm" else [pre, *before, suf, *after, mid]
        return self._complete(prompt, max_tokens, stop)

    @torch.no_grad()
    def _complete(self, prompt: list[int], max_tokens: int, stop: str = "") -> str:
        ids, cache, found = torch.tensor([prompt]), None, list[int]()
        while len(found) < max_tokens:
            out = self.model(ids, past_key_values=cache, use_cache=True)
            best = int(out.logits[0, -1].argmax())
            if best == self._eos:
                break
            found.append(best)
            ids, cache = torch.tensor([[best]]), out.past_key_values
            if stop and stop in self.tokenizer.decode(found, skip_special_tokens=False):
                break
        return str(self.tokenizer.decode(found, skip_special_tokens=False))


def exact_match(completer: Completer, tasks: Path, order: str) -> float:
    """Return the share of the tasks of HumanEval-Infilling (single lines) that are filled exactly.

    The first line of the completion is compared, without the blanks at its end.
    """
    with gzip.open(tasks, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    hits = 0
    for row in rows:
        middle = completer.fill(row["prompt"], row["suffix"], stop="\n", order=order)
        hits += middle.split("\n")[0].rstrip() == row["canonical_solution"].rstrip()
    return hits / len(rows)


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
