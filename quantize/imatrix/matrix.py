"""What an importance matrix is. Pure: knows no files and no llama.cpp.

Letters: M matrices stacked in one tensor (the experts of a mixture, else 1), C columns (input channels).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Entry:
    """What came into one weight of the model.

    Attributes:
        sums: (M, C), over all tokens, of each input channel's square.
        counts: (M,), tokens that each matrix saw; 0 for an expert that was never chosen.
    """

    sums: Floats
    counts: Counts


@dataclass(frozen=True, slots=True)
class Imatrix:
    """The mean square of every matmul's input channels over a text.

    Attributes:
        entries: the weight's name → what came into it.
        datasets: names of the texts.
        n_chunks: pieces of text that were read.
        chunk_size: tokens in each; 0 where the file was of the old form, which does not say. There the sums are
            per chunk, not per token.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...]
    n_chunks: int
    chunk_size: int

    def means(self) -> dict[str, Floats]:
        """The weight's name → (M·C,), as llama-quantize hands them to llama.cpp's quantizer.

        The arithmetic is its own, in float32. An expert that no token came to gets ones: all its columns count
        alike. Source: llama.cpp, tools/quantize/quantize.cpp, load_imatrix.
        """
        return {name: _mean(entry) for name, entry in self.entries.items()}


def _mean(entry: Entry) -> Floats:
    counts = entry.counts.astype(np.float32)[:, None]
    means: Floats = np.where(counts > 0, entry.sums / np.maximum(counts, 1), np.float32(1))
    return means.reshape(-1)
