"""Windows of a text, of which the second half is measured, and a model's logits of them.

llama.cpp's perplexity tool does the same, since without context a model predicts little, which would hide a
quantization's loss. Unlike there, the windows are spread over the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from turbopilot.base.errors import InvalidInput
from turbopilot.base.kl_divergence import Logits

_BLOCK_LOGITS: Final = 1 << 24  # 64 MiB of float32 a block: bounds memory whatever the vocabulary


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of equally many token ids."""

    ids: Sequence[Sequence[int]]

    @property
    def length(self) -> int:
        """Return the tokens of a window."""
        return len(self.ids[0])

    @property
    def measured(self) -> range:
        """Return the positions measured in each: n/2 … n-2, so that a token follows each."""
        return range(self.length // 2, self.length - 1)

    @property
    def positions(self) -> int:
        """Return how many are measured in all."""
        return len(self.ids) * len(self.measured)


@dataclass(frozen=True, slots=True)
class Reference:
    """A model's logits of a text, in a file of (P, V) float32: P positions, V vocabulary rows."""

    path: Path
    model: str
    n_vocab: int
    windows: Windows

    def logits(self) -> Logits:
        """Return (P, V), mapped from the file."""
        return np.memmap(self.path, "<f4", "r", shape=(self.windows.positions, self.n_vocab))


def cut(ids: Sequence[int], length: int, positions: int, begin: int | None) -> Windows:
    """Return windows of a text's tokens, spread evenly; a text shorter than `length` is one window.

    At most `positions` are measured, but always a window. `begin` is the first token of each, if the model wants one.
    """
    head = [] if begin is None else [begin]
    size = min(length, len(ids) + len(head))
    if size < 4:
        raise InvalidInput(
            f"the text has {len(ids)} tokens: too few to measure", hint="give a longer one"
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
    """Return the positions whose logits are held at once."""
    return max(1, min(n_batch, _BLOCK_LOGITS // n_vocab))
