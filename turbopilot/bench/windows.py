"""Windows of a text, and a model's logits on them.

Only the second half of each window is measured, as in llama.cpp's perplexity tool: without context a model predicts
poorly, which would hide the loss of a quantization. Unlike in that tool, the windows are spread over the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from turbopilot.base.counts import count
from turbopilot.base.errors import InvalidInput
from turbopilot.base.kl_divergence import Logits

# 64 MiB of float32 for a block: limits memory for any vocabulary size.
_BLOCK_LOGITS: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of token ids, all of the same length."""

    ids: Sequence[Sequence[int]]

    @property
    def length(self) -> int:
        """Number of tokens in a window."""
        return len(self.ids[0])

    @property
    def measured(self) -> range:
        """Measured positions of each window: n/2 … n-2, so that a token follows each."""
        return range(self.length // 2, self.length - 1)

    @property
    def positions(self) -> int:
        """Number of measured positions in all windows."""
        return len(self.ids) * len(self.measured)


@dataclass(frozen=True, slots=True)
class Reference:
    """Logits of a model on a text, in a file of (P, V) float32: P positions, V vocabulary size."""

    path: Path
    model: str
    n_vocab: int
    windows: Windows

    def logits(self) -> Logits:
        """Return the logits (P, V), mapped from the file."""
        return np.memmap(self.path, "<f4", "r", shape=(self.windows.positions, self.n_vocab))


def cut(ids: Sequence[int], length: int, positions: int, begin: int | None) -> Windows:
    """Return windows of a text's tokens, spread evenly; a text shorter than `length` is one window.

    At most `positions` positions are measured, but at least one window. `begin` is the first token of each window, if
    the model expects one.
    """
    head = [] if begin is None else [begin]
    size = min(length, len(ids) + len(head))
    if size < 4:
        raise InvalidInput(
            f"the text has {count(len(ids), 'token')}: too few to measure",
            hint="give a longer text",
        )
    step = size - len(head)
    there = len(ids) // step
    n = max(1, min(there, positions // (size - 1 - size // 2)))
    starts = [i * there // n * step for i in range(n)]
    return Windows([[*head, *ids[at : at + step]] for at in starts])


def row_blocks(measured: range, rows: int) -> list[range]:
    """Split the measured positions into blocks of at most `rows`.

    >>> row_blocks(range(4, 9), 2)
    [range(4, 6), range(6, 8), range(8, 9)]
    """
    return [measured[i : i + rows] for i in range(0, len(measured), rows)]


def rows_at_once(n_vocab: int, n_batch: int) -> int:
    """Return the number of positions whose logits are kept in memory at once."""
    return max(1, min(n_batch, _BLOCK_LOGITS // n_vocab))
