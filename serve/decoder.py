"""The seam between the engine and whatever computes logits. Knows nothing of HTTP, threads or llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Logits: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FimTokens:
    """The ids that frame fill-in-the-middle: `prefix` … `suffix` … `middle`, then the model writes."""

    prefix: int
    suffix: int
    middle: int


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One token of a batch: where it stands in which sequence, and whether its logits are wanted."""

    token: int
    pos: int
    seq: int
    want_logits: bool


class Tokenizer(Protocol):
    """Text ↔ token ids. Reads only constant data: callable from any thread."""

    @property
    def fim(self) -> FimTokens | None:
        """Fill-in-the-middle ids; None where the model was not trained for it."""

    @property
    def start_token(self) -> int:
        """What an empty prompt begins with, since a model needs one token at least."""

    @property
    def adds_bos(self) -> bool:
        """Whether every prompt begins with `start_token`."""

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Token ids of `text`, without a begin-of-sequence token.

        Args:
            text: any text.
            parse_special: whether the names of special tokens become those tokens, or stay text.
        """


class Decoder(Tokenizer, Protocol):
    """A model with a KV cache. Its methods here belong to the one thread that runs the engine."""

    @property
    def name(self) -> str:
        """The model's name, for people and for `/v1/models`."""

    @property
    def n_ctx(self) -> int:
        """Tokens that the KV cache holds, over all sequences."""

    @property
    def n_batch(self) -> int:
        """Most tokens in one call of `decode`."""

    @property
    def n_seq(self) -> int:
        """Number of sequences that the KV cache can hold apart."""

    @property
    def n_vocab(self) -> int:
        """Length of a row of logits."""

    def piece(self, token: int) -> bytes:
        """The bytes of a token, maybe a part of a character; nothing for a special token."""

    def is_eog(self, token: int) -> bool:
        """Whether the token ends generation."""

    def decode(self, batch: Sequence[BatchItem]) -> Logits:
        """Compute the batch, in which at most `n_seq` items want logits, and add it to the KV cache.

        Returns:
            One row of logits for each item that wants them, in the batch's order: (rows, n_vocab).

        Raises:
            NoKvSlot: the KV cache has no room; nothing was changed.
            DecoderFailed: the computation failed; the KV cache of the sequences involved is undefined.
        """

    def remove(self, seq: int, start: int) -> bool:
        """Forget a sequence's positions from `start` on; False where the model cannot forget a part."""

    def close(self) -> None:
        """Free the model."""
