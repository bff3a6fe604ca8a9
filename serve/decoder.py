"""The seam between the engine and whatever computes logits. Knows nothing of HTTP, threads or llama.cpp."""

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
        repository: what stands before a repository's name; None where the model knows none.
        file: what stands before a file's name; None where the model knows none.
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
        """Fill-in-the-middle ids; None where the model was not trained for it."""

    @property
    def adds_space(self) -> bool:
        """Whether `tokenize` begins a text with a space that it does not have, as SentencePiece's models do."""

    @property
    def chat_template(self) -> str:
        """How messages become a prompt, in Jinja; "" where the model's file says nothing of it."""

    @property
    def bos(self) -> str:
        """The text of the token that documents begin with; "" where there is none."""

    @property
    def eos(self) -> str:
        """The text of the token that they end with; "" where there is none."""

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

    def piece(self, token: int) -> bytes:
        """The bytes of a token, maybe a part of a character; nothing for a special token."""


class Constraint(Protocol):
    """What tokens may come next, as a grammar says; it follows one sequence."""

    def allows(self, token: int) -> bool:
        """Whether the token may come next."""

    def mask(self, logits: Logits) -> Logits:
        """A copy of the logits in which every token that may not come next is minus infinity."""

    def accept(self, token: int) -> None:
        """The token was chosen."""


class Decoder(Tokenizer, Protocol):
    """A model with a KV cache. Its methods here belong to the one thread that runs the engine."""

    @property
    def name(self) -> str:
        """The model's name, for people and for `/v1/models`."""

    @property
    def identity(self) -> str:
        """Differs wherever what `save` gives would not be understood, or would be another model's."""

    @property
    def n_ctx(self) -> int:
        """Most tokens of one sequence."""

    @property
    def n_cells(self) -> int:
        """Tokens that the KV cache holds, over all sequences: `n_ctx` where they share it, or that for each."""

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
        """Whether the token ends generation."""

    def constraint(self, grammar: str) -> Constraint:
        """A grammar in GBNF over this vocabulary, at its start.

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
        """Forget a sequence's positions from `start` on; False where the model cannot forget a part."""

    def copy(self, source: int, target: int, n: int) -> bool:
        """Give an empty sequence the first `n` positions of another; False where the model cannot."""

    def save(self, seq: int) -> bytes:
        """A sequence's part of the KV cache, to be kept elsewhere; b"" where the model cannot."""

    def restore(self, seq: int, state: bytes) -> bool:
        """Fill an empty sequence from what `save` gave; False where there is no room or it is not understood."""

    def rebuild(self) -> None:
        """Throw the KV cache away and make a new one, after a failure.

        Raises:
            ServeError: llama.cpp cannot.
        """

    def close(self) -> None:
        """Free the model."""
