"""The interface between the engine and what computes logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.llama.batch_item import BatchItem as BatchItem

Logits: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FimTokens:
    """The ids that frame fill-in-the-middle: `prefix` … `suffix` … `middle`, then the completion.

    `repository` and `file` come before such a name, if the model has tokens for that.
    """

    prefix: int
    suffix: int
    middle: int
    repository: int | None = None
    file: int | None = None


class Tokenizer(Protocol):
    """Text ↔ token ids. Callable from any thread."""

    @property
    def fim(self) -> FimTokens | None:
        """Fill-in-the-middle ids; None if the model was not trained for it."""

    @property
    def adds_space(self) -> bool:
        """Whether `tokenize` puts a space in front of every text, as in SentencePiece's models."""

    @property
    def chat_template(self) -> str:
        """Chat template of the model file, in Jinja, or ""."""

    @property
    def bos(self) -> str:
        """Text of the token that documents begin with, or ""."""

    @property
    def eos(self) -> str:
        """Text of the token that documents end with, or ""."""

    @property
    def start_token(self) -> int:
        """The token of an empty prompt, since a model needs at least one."""

    @property
    def adds_bos(self) -> bool:
        """Whether every prompt begins with `start_token`."""

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Return token ids, without a begin-of-sequence token.

        With `parse_special` the names of special tokens become those tokens, else they stay text.
        """

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token, perhaps a part of a character; nothing for a special token."""

    def is_eog(self, token: int) -> bool:
        """Return whether the token ends generation."""


class Constraint(Protocol):
    """The tokens that may come next in one sequence; used by one thread at a time.

    Each method raises InvalidRequest if the answer takes too long to find.
    """

    def allows(self, token: int) -> bool:
        """Return whether the token may come next."""

    def mask(self, logits: Logits) -> Logits:
        """Return a copy of the logits with minus infinity for every token that may not come next."""

    def accept(self, token: int) -> None:
        """Advance by the chosen token."""


class Decoder(Tokenizer, Protocol):
    """A model with a KV cache. The methods here are for the one thread that runs the engine."""

    @property
    def name(self) -> str:
        """Name of the model, for people and for `/v1/models`."""

    @property
    def identity(self) -> str:
        """Differs between decoders that cannot restore each other's states."""

    @property
    def n_ctx(self) -> int:
        """Most tokens of one sequence."""

    @property
    def n_cells(self) -> int:
        """Tokens that the KV cache holds in all: `n_ctx` if the sequences share it, else that for each."""

    @property
    def n_batch(self) -> int:
        """Most tokens in one call of `decode`."""

    @property
    def n_seq(self) -> int:
        """Number of sequences in the KV cache."""

    @property
    def n_outputs(self) -> int:
        """Most rows of logits in one call of `decode`; at least `n_seq`."""

    @property
    def n_vocab(self) -> int:
        """Length of a row of logits."""

    @property
    def can_cut(self) -> bool:
        """Whether `remove` can forget a part of a sequence; a recurrent state is all or nothing."""

    def warm_up(self) -> None:
        """Compute something, so that the first request is not slower than others.

        Call it in the thread that will call `decode`: llama.cpp has worker threads for each thread that calls it, and
        two sets of them, each spinning while it waits, halve each other's speed.
        """

    def decode(self, batch: Sequence[BatchItem]) -> Logits:
        """Compute the batch, in which at most `n_outputs` items want logits, and add it to the KV cache.

        Returns:
            Logits of the items that want them, in order: (rows, n_vocab). Valid until the next call.

        Raises:
            NoKvSlot: the KV cache has no room; nothing was changed.
            DecodeAborted: it was interrupted; the KV cache of the sequences involved is undefined.
            BadBatch: the batch itself is at fault; nothing was changed.
            DecoderFailed: the computation failed; the whole context is undefined.
        """

    def remove(self, seq: int, start: int) -> bool:
        """Remove a sequence's positions from `start` on; False if the model cannot remove a part."""

    def copy(self, source: int, target: int, n: int) -> bool:
        """Copy the first `n` positions of a sequence to an empty one; False if the model cannot."""

    def save(self, seq: int) -> bytes:
        """Return a sequence's part of the KV cache; b"" if the model cannot."""

    def restore(self, seq: int, state: bytes) -> bool:
        """Fill an empty sequence with a saved state; False if there is no room or the state does not fit."""

    def rebuild(self) -> None:
        """Make a new KV cache after a failure.

        Raises:
            ServeError: llama.cpp cannot.
        """

    def close(self) -> None:
        """Free the model."""
