"""Interface between the engine and the model runtime (llama.cpp, or a fake in tests)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from serve.adapters import AdapterSet
from serve.prompt.bound_layout import FimLayouts
from turbopilot.llama.batch_item import BatchItem as BatchItem

Logits: TypeAlias = npt.NDArray[np.float32]


class Tokenizer(Protocol):
    """Conversion between text and token ids. Callable from any thread."""

    @property
    def fim(self) -> FimLayouts | None:
        """Layouts of fill-in-the-middle prompts; None if the model has no tokens for them."""

    @property
    def adds_space(self) -> bool:
        """Whether `tokenize` prepends a space to every text, as SentencePiece models do."""

    @property
    def chat_template(self) -> str:
        """Jinja chat template of the model file, or ""."""

    @property
    def bos(self) -> str:
        """Text of the begin-of-sequence token, or ""."""

    @property
    def eos(self) -> str:
        """Text of the end-of-sequence token, or ""."""

    @property
    def start_token(self) -> int:
        """Token that begins a prompt; alone it stands for an empty prompt, since a model needs at least one token."""

    @property
    def adds_bos(self) -> bool:
        """Whether every prompt begins with `start_token`."""

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Return token ids, without a begin-of-sequence token.

        With `parse_special`, names of special tokens in the text become those tokens; otherwise they stay text.
        """

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token, which may end inside a character; b"" for a special token."""

    def named_piece(self, token: int) -> bytes:
        """Return the bytes of a token; for a special token its name."""

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
        """Name of the model, as shown to users and in `/v1/models`."""

    @property
    def identity(self) -> str:
        """Key of compatible states: decoders with the same identity can restore each other's saved states."""

    @property
    def n_ctx(self) -> int:
        """Maximum tokens of one sequence."""

    @property
    def n_cells(self) -> int:
        """Total tokens that the KV cache holds: `n_ctx` if the sequences share it, else `n_ctx` for each."""

    @property
    def n_batch(self) -> int:
        """Maximum tokens in one call of `decode`."""

    @property
    def n_seq(self) -> int:
        """Number of sequences in the KV cache."""

    @property
    def n_outputs(self) -> int:
        """Maximum rows of logits in one call of `decode`; at least `n_seq`."""

    @property
    def n_vocab(self) -> int:
        """Length of a row of logits."""

    @property
    def can_cut(self) -> bool:
        """Whether `remove` can remove a part of a sequence; recurrent models can only remove all of it."""

    @property
    def can_move(self) -> bool:
        """Whether `move` can change the positions of tokens: not those of learned position vectors."""

    @property
    def can_tune(self) -> bool:
        """Whether `tune` has something to measure."""

    def tune(self) -> Iterator[bool]:
        """Measure which settings are fast on this machine, in pieces of less than half a second.

        Yields:
            Whether the settings changed, after each piece; the KV cache must be rebuilt then.
        """

    def warm_up(self) -> None:
        """Run a dummy computation, so that the first request is not slower than later ones.

        Call it in the thread that will call `decode`. llama.cpp starts worker threads for each thread that calls it,
        and they spin while they wait: two sets of them halve each other's speed.
        """

    def use_adapters(self, adapters: AdapterSet) -> None:
        """Compute the next batches with these LoRA adapters, and no others."""

    def decode(self, batch: Sequence[BatchItem]) -> Logits:
        """Compute a batch and add it to the KV cache. At most `n_outputs` of its items may request logits.

        Returns:
            Logits of the items that request them, in order: (rows, n_vocab). Valid until the next call.

        Raises:
            NoKvSlot: the KV cache has no room; it is unchanged.
            DecodeAborted: the computation was interrupted; the KV cache of the sequences in the batch is undefined.
            BadBatch: the batch is invalid; the KV cache is unchanged.
            DecoderFailed: the computation failed; the whole context is undefined.
        """

    def remove(self, seq: int, start: int) -> bool:
        """Remove a sequence's positions from `start` on. Return False if the model cannot remove a part."""

    def move(self, seq: int, pieces: Sequence[tuple[int, int]]) -> None:
        """Keep only pieces of a sequence, one after the other from position 0 on.

        Args:
            seq: the sequence; no other one may share its cells.
            pieces: first position and number of tokens of each piece, in the new order; they do not overlap.
        """

    def copy(self, source: int, target: int, n: int) -> bool:
        """Copy the first `n` positions of a sequence to an empty one. Return False if the model cannot."""

    def save(self, seq: int) -> bytes:
        """Return a sequence's part of the KV cache as bytes; b"" if the model cannot save it."""

    def restore(self, seq: int, state: bytes) -> bool:
        """Fill an empty sequence with a saved state. Return False if there is no room or the state does not fit."""

    def rebuild(self) -> None:
        """Create a new KV cache after a failure.

        Raises:
            ServeError: llama.cpp cannot create it.
        """

    def close(self) -> None:
        """Free the model."""
