"""A text cut into windows of equal length, of which the second half is measured.

As llama.cpp's perplexity tool measures: a model that has read nothing yet cannot predict much, which would hide what
a quantization costs. Unlike there, the windows are spread over the text, so that few of them see all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from turbopilot.base.errors import InvalidInput

_BLOCK_LOGITS: Final = 1 << 24  # 64 MiB of float32 a block: bounds memory whatever the vocabulary


@dataclass(frozen=True, slots=True)
class Windows:
    """W windows of n tokens.

    Attributes:
        ids: W times n token ids.
        measured: the positions measured in each: n/2 … n-2, so that a token follows each.
    """

    ids: tuple[tuple[int, ...], ...]
    measured: range

    @property
    def positions(self) -> int:
        """How many are measured in all."""
        return len(self.ids) * len(self.measured)


def cut(ids: Sequence[int], length: int, positions: int, begin: int | None) -> Windows:
    """Return windows of a text's tokens, spread evenly.

    Args:
        ids: the text.
        length: tokens of a window; a shorter text is one window.
        positions: the most that are measured; but always a window.
        begin: a token that every window begins with, if the model wants one.

    Raises:
        InvalidInput: the text is too short.
    """
    head = () if begin is None else (begin,)
    size = min(length, len(ids) + len(head))
    if size < 4:
        raise InvalidInput(
            f"the text has {len(ids)} tokens: too few to measure", hint="give a longer one"
        )
    measured = range(size // 2, size - 1)
    step = size - len(head)
    there = len(ids) // step
    n = max(1, min(there, positions // len(measured)))
    starts = [i * there // n * step for i in range(n)]
    return Windows(tuple((*head, *ids[at : at + step]) for at in starts), measured)


def row_blocks(measured: range, rows: int) -> list[range]:
    """Return the measured positions in blocks of at most `rows`.

    >>> row_blocks(range(4, 9), 2)
    [range(4, 6), range(6, 8), range(8, 9)]
    """
    return [measured[i : i + rows] for i in range(0, len(measured), rows)]


def rows_at_once(n_vocab: int, n_batch: int) -> int:
    """Return the positions whose logits are held at once."""
    return max(1, min(n_batch, _BLOCK_LOGITS // n_vocab))
