"""Seeded training samples: half plain text, half rearranged for fill-in-the-middle."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from demo.corpus import Corpus, repeats
from demo.streams import Stream
from demo.tokenizer import EOS, FIM, token_id

Ids = npt.NDArray[np.int64]
WORD_BORDER = re.compile(r"\b|$")
# Shares of the samples. A completion should end with the function that it completes, so the target after the last
# token of a function is mostly end-of-text, while the text goes on: a window then keeps its context.
END_AFTER_FUNCTION = 0.9
SPM = 0.3  # suffix before prefix; `serve` uses the other order by default
NO_SUFFIX = 0.15  # the cursor is at the end of the file


class Samples:
    """Source of training samples.

    Of four rows one has a window of whole files, one has single functions, and two are rearranged for
    fill-in-the-middle.

    Args:
        streams: streams of whole files and of single functions.
    """

    def __init__(
        self, corpus: Corpus, streams: tuple[Stream, Stream], tokenizer: Tokenizer, seed: int
    ) -> None:
        self._tokenizer, self._streams, self._seed = tokenizer, streams, seed
        self._eos, *self._fim = (token_id(tokenizer, t) for t in (EOS, *FIM))
        self._texts = list(corpus.train.values())
        sizes = np.array([len(t) * repeats(n) for n, t in corpus.train.items()], dtype=np.float64)
        self._upto = np.cumsum(sizes / sizes.sum())

    def rows(self, step: int, row: int, count: int, n: int) -> tuple[Tensor, Tensor]:
        """Return input and target ids, both (count, n), of the step's rows from `row` on.

        They depend only on the seed, the step and the row.
        """
        found = []
        for i in range(row, row + count):
            rng = np.random.default_rng((self._seed, step, i))
            found.append(
                self._rearranged(rng, n)
                if i % 2
                else self._window(rng, n, self._streams[i // 2 % 2])
            )
        inputs, targets = zip(*found, strict=True)
        return torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(targets))

    def _window(self, rng: np.random.Generator, n: int, stream: Stream) -> tuple[Ids, Ids]:
        start = int(rng.integers(0, len(stream.ids) - n - 1))
        ids = stream.ids[start : start + n + 1].astype(np.int64)
        ends = stream.is_end[start : start + n] & (rng.random(n) < END_AFTER_FUNCTION)
        return ids[:-1], np.where(ends, self._eos, ids[1:])

    def _rearranged(self, rng: np.random.Generator, n: int) -> tuple[Ids, Ids]:
        out: list[int] = []
        while len(out) <= n:
            text = self._texts[int(np.searchsorted(self._upto, rng.random()))]
            span = int(rng.integers(300, 3 * n))
            start = text.rfind("\n", 0, int(rng.integers(0, max(1, len(text) - span)))) + 1
            out += self._frame(*self._cut(text[start : start + span], rng), rng.random() < SPM)
        ids = np.array(out[: n + 1], dtype=np.int64)
        return ids[:-1], ids[1:]

    def _cut(self, text: str, rng: np.random.Generator) -> tuple[str, str, str]:
        """Return prefix, middle and suffix, cut as editors do: most middles are short and end with a line."""
        cut = self._cursor(text, rng)
        length = int(np.exp(rng.uniform(np.log(4), np.log(max(5, len(text) // 2)))))
        kind = rng.random()
        if kind < 0.2:  # whole lines
            cut = text.rfind("\n", 0, cut) + 1
            end = text.find("\n", cut + (length if kind < 0.07 else 0)) + 1 or len(text)
        elif kind < 0.5:  # the rest of the line, or the next line
            end = text.find("\n", cut + 1)
        elif kind < 0.65:
            end = text.find("\n", cut + length)
        elif kind < 0.75:  # the rest of the paragraph
            end = text.find("\n\n", cut + 1)
        else:
            end = cut + length
        end = min(end, len(text)) if end >= 0 else len(text)
        at_line_end = text[end : end + 1] in "\n" or text[end - 1] == "\n"
        suffix = "" if at_line_end and rng.random() < NO_SUFFIX else text[end:]
        return text[:cut], text[cut:end], suffix

    def _cursor(self, text: str, rng: np.random.Generator) -> int:
        """Return the cursor's position: after an indentation, at the border of a word or token, or anywhere."""
        at = int(rng.integers(0, len(text)))
        kind = rng.random()
        if kind < 0.25:
            at = text.rfind("\n", 0, at) + 1
            return at + len(text[at:]) - len(text[at:].lstrip(" "))
        if kind < 0.60:
            return next(WORD_BORDER.finditer(text, at)).start()
        if kind < 0.85:
            begin = max(0, at - 200)
            offsets = self._tokenizer.encode(text[begin : at + 1]).offsets
            return begin + int(offsets[-1][0])
        return at

    def _frame(self, prefix: str, middle: str, suffix: str, suffix_first: bool) -> list[int]:
        pre, suf, mid = self._fim
        p, m, s = (e.ids for e in self._tokenizer.encode_batch([prefix, middle, suffix]))
        if suffix_first:
            return [pre, suf, *s, mid, *p, *m, self._eos]
        return [pre, *p, suf, *s, mid, *m, self._eos]
