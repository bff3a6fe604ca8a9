"""What verify asks of a model, whoever runs it. Knows nothing of torch, llama.cpp or files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Logits: TypeAlias = npt.NDArray[np.float32]
"""(T, V): for each of T tokens, the scores of what comes next."""


class LogitsSource(Protocol):
    """A language model with its tokenizer."""

    @property
    def name(self) -> str:
        """For a person: which file or folder this is."""

    @property
    def n_vocab(self) -> int:
        """V, the rows of the output head; the tokenizer may know fewer tokens."""

    @property
    def n_ctx(self) -> int:
        """The most tokens that the model takes at once."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids of the text. Special tokens are parsed where they occur; none are added."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of some ids, for a person to read: bytes that are no UTF-8 are replaced."""

    def logits(self, ids: Sequence[int]) -> Logits:
        """(T, V) logits after each of the T ids, 1 ≤ T ≤ n_ctx, each id below n_vocab."""


class Reference(LogitsSource, Protocol):
    """A model that can show how much it minds what the candidate may lose."""

    def use_tanh_gelu(self) -> bool:
        """From now on compute GELU by the tanh formula, as llama.cpp does; False where it did already.

        The two differ by at most 4.8e-4 at any activation.
        """

    def add_noise(self, noise: float) -> None:
        """Put random noise on every matrix, in place and for good.

        Args:
            noise: its power as a share of the weights' own, in each block of 32 along a row: as
                quantizing errs in proportion to what is in a block.
        """
