"""The seam between the engine and whatever computes logits."""

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
    """The ids that frame fill-in-the-middle: `prefix` … `suffix` … `middle`, then the model writes.

    Attributes:
        prefix, suffix, middle: what stands before each part.
        repository: what stands before a repository's name, if the model knows such a token.
        file: what stands before a file's name, if the model knows such a token.
    """

    prefix: int
    suffix: int
    middle: int
    repository: int | None = None
    file: int | None = None


class Tokenizer(Protocol):
    """Text ↔ token ids. Reads only constant data: callable from any thread."""

    @property
    def fim(self) -> FimTokens | None:
        """Fill-in-the-middle ids; None if the model was not trained for it."""

    @property
    def adds_space(self) -> bool:
        """Whether `tokenize` puts a space in front of every text, as SentencePiece's models do."""

    @property
    def chat_template(self) -> str:
        """The model file's chat template, in Jinja, or ""."""

    @property
    def bos(self) -> str:
        """The text of the token that documents begin with, or ""."""

    @property
    def eos(self) -> str:
        """The text of the token that documents end with, or ""."""

    @property
    def start_token(self) -> int:
        """What an empty prompt begins with, since a model needs one token at least."""

    @property
    def adds_bos(self) -> bool:
        """Whether every prompt begins with `start_token`."""

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Return token ids, without a begin-of-sequence token.

        Args:
            text: any text.
            parse_special: whether the names of special tokens become those tokens, or stay text.
        """

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token, maybe a part of a character; nothing for a special token."""


class Constraint(Protocol):
    """What tokens may come next, as a grammar says; it follows one sequence."""

    def allows(self, token: int) -> bool:
        """Return whether the token may come next."""

    def mask(self, logits: Logits) -> Logits:
        """Return a copy of the logits with minus infinity for every token that may not come next."""

    def accept(self, token: int) -> None:
        """Note that the token was chosen."""


class Decoder(Tokenizer, Protocol):
    """A model with a KV cache. Its methods here belong to the one thread that runs the engine."""

    @property
    def name(self) -> str:
        """The model's name, for people and for `/v1/models`."""

    @property
    def identity(self) -> str:
        """Differs between decoders that would not understand each other's `save`."""

    @property
    def n_ctx(self) -> int:
        """Most tokens of one sequence."""

    @property
    def n_cells(self) -> int:
        """Tokens that the KV cache holds over all sequences: `n_ctx` if they share it, or that for each."""

    @property
    def n_batch(self) -> int:
        """Most tokens in one call of `decode`."""

    @property
    def n_seq(self) -> int:
        """Number of sequences that the KV cache can hold apart."""

    @property
    def n_outputs(self) -> int:
        """Most rows of logits of one call of `decode`; at least `n_seq`."""

    @property
    def n_vocab(self) -> int:
        """Length of a row of logits."""

    @property
    def can_cut(self) -> bool:
        """Whether `remove` can forget a part of a sequence; a recurrent state is all or nothing."""

    def warm_up(self) -> None:
        """Compute something, so that the first request finds everything in place.

        In the thread that will compute all the rest: llama.cpp has worker threads for each thread that calls it, and
        two sets of them, each spinning while it waits, halve each other's speed.
        """

    def is_eog(self, token: int) -> bool:
        """Return whether the token ends generation."""

    def constraint(self, grammar: str) -> Constraint:
        """Return a grammar in GBNF over this vocabulary, at its start.

        Raises:
            InvalidRequest: it cannot be parsed.
        """

    def decode(self, batch: Sequence[BatchItem]) -> Logits:
        """Compute the batch, in which at most `n_outputs` items want logits, and add it to the KV cache.

        Returns:
            One row of logits for each item that wants them, in the batch's order: (rows, n_vocab). Valid until
            the next call.

        Raises:
            NoKvSlot: the KV cache has no room; nothing was changed.
            DecodeAborted: it was interrupted; the KV cache of the sequences involved is undefined.
            BadBatch: the batch itself is at fault; nothing was changed.
            DecoderFailed: the computation failed; the whole context is undefined.
        """

    def remove(self, seq: int, start: int) -> bool:
        """Forget a sequence's positions from `start` on; False if the model cannot forget a part."""

    def copy(self, source: int, target: int, n: int) -> bool:
        """Give an empty sequence the first `n` positions of another; False if the model cannot."""

    def save(self, seq: int) -> bytes:
        """Return a sequence's part of the KV cache, to be kept elsewhere; b"" if the model cannot."""

    def restore(self, seq: int, state: bytes) -> bool:
        """Fill an empty sequence from what `save` gave; False if there is no room or it is not understood."""

    def rebuild(self) -> None:
        """Throw the KV cache away and make a new one, after a failure.

        Raises:
            ServeError: llama.cpp cannot.
        """

    def close(self) -> None:
        """Free the model."""
