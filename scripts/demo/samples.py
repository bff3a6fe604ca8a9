"""Seeded training samples: half plain text, half rearranged for fill-in-the-middle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from demo.corpus import Corpus
from demo.tokenizer import EOS, FIM, token_id


class Samples:
    """Source of training samples: half are plain windows of the corpus, half are rearranged for fill-in-the-middle."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.eos, *self.fim = (token_id(tokenizer, t) for t in (EOS, *FIM))
        # Library code counts twice, because it resembles users' code, and the test suite is three fifths of the bytes.
        self.texts = [
            t for n, t in corpus.train.items() for _ in range(1 if n.startswith("test/") else 2)
        ]
        sizes = np.array([len(t) for t in self.texts], dtype=np.float64)
        self.share = sizes / sizes.sum()
        order = np.random.default_rng(seed).permutation(len(self.texts))
        ids: list[int] = []
        for text, code in zip(
            order, tokenizer.encode_batch([self.texts[i] for i in order]), strict=True
        ):
            del text
            ids.append(self.eos)
            ids.extend(code.ids)
        self.stream = np.array(ids, dtype=np.int64)

    def batch(self, step: int, rows: int, n: int) -> Tensor:
        """Return token ids (rows, n + 1) that depend only on (seed, step)."""
        rng = np.random.default_rng((self.seed, step))
        return torch.from_numpy(
            np.stack([self._fim(rng, n) if i % 2 else self._plain(rng, n) for i in range(rows)])
        )

    def _plain(self, rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
        start = int(rng.integers(0, len(self.stream) - n - 1))
        return self.stream[start : start + n + 1]

    def _fim(self, rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
        """Return samples in prefix–suffix–middle order, cut at characters; most middles are short, as in an editor."""
        out: list[int] = []
        while len(out) <= n:
            text = self.texts[int(rng.choice(len(self.texts), p=self.share))]
            span = int(rng.integers(300, 3 * n))
            start = int(rng.integers(0, max(1, len(text) - span)))
            start = text.rfind("\n", 0, start) + 1
            piece = text[start : start + span]
            length = int(
                min(len(piece), np.exp(rng.uniform(np.log(4), np.log(max(5, len(piece) // 2)))))
            )
            cut = int(rng.integers(0, len(piece) - length + 1))
            if rng.random() < 0.5:  # end the middle at a line end, as completions do
                end = piece.find("\n", cut + length)
                length = (end if end > 0 else len(piece)) - cut
            prefix, middle, suffix = piece[:cut], piece[cut : cut + length], piece[cut + length :]
            p, s, m = (e.ids for e in self.tokenizer.encode_batch([prefix, suffix, middle]))
            pre, suf, mid = self.fim
            out += [pre, *p, suf, *s, mid, *m, self.eos]
        return np.array(out[: n + 1], dtype=np.int64)
