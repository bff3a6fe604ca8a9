"""Checkpoint as the decoder of an engine: PyTorch computes the completions, in everything else as they are served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from turbopilot.base.errors import InvalidInput
from turbopilot.llama.batch_item import BatchItem
from turbopilot.verify.source import Logits
from turbopilot.verify.torch_model import TorchModel


class TorchDecoder:
    """Decoder of one sequence, with the interface of `serve.decoder.Decoder`.

    Args:
        model: the network; it must fit into memory.
        name: name of the checkpoint.
        vocabulary: decoder of a GGUF file with the same tokens, for everything that concerns text.

    Raises:
        InvalidInput: the checkpoint does not fit into memory.
    """

    can_cut = can_move = can_tune = False
    n_seq = n_outputs = 1

    def __init__(self, model: TorchModel, name: str, vocabulary: Any) -> None:
        if model.streamed:
            raise InvalidInput(
                f"--task: {name} does not fit into memory, so PyTorch cannot generate completions",
                hint="compare with a GGUF file in F16 or Q8_0 instead: --against FILE",
            )
        self._model, self._cache = model, None
        self._n_held = 0
        self.name = self.identity = name
        self.n_ctx = self.n_cells = self.n_batch = vocabulary.n_ctx
        self.n_vocab = model.n_vocab
        self.fim, self.adds_space, self.adds_bos = (
            vocabulary.fim, vocabulary.adds_space, vocabulary.adds_bos,
        )  # fmt: skip
        self.chat_template, self.bos, self.eos = (
            vocabulary.chat_template, vocabulary.bos, vocabulary.eos,
        )  # fmt: skip
        self.start_token = vocabulary.start_token
        self.tokenize, self.is_eog = vocabulary.tokenize, vocabulary.is_eog
        self.piece, self.named_piece = vocabulary.piece, vocabulary.named_piece

    def decode(self, batch: Sequence[BatchItem]) -> Logits:
        """Compute consecutive tokens of the sequence; return (1, V) logits of the last, or (0, V) if not requested."""
        if batch[0].pos != self._n_held or any(i.want_logits for i in batch[:-1]):
            raise ValueError(
                "a batch continues the sequence, and has logits of its last token alone"
            )
        logits, self._cache = self._model.next_logits([i.token for i in batch], self._cache)
        self._n_held += len(batch)
        return logits[np.newaxis] if batch[-1].want_logits else logits[np.newaxis][:0]

    def remove(self, _seq: int, start: int) -> bool:
        """Remove all positions; return False if only a part would be removed."""
        if start == 0:
            self._cache, self._n_held = None, 0
        return start in (0, self._n_held)

    def warm_up(self) -> None:
        """Do nothing: PyTorch needs no warm-up."""

    def tune(self) -> Iterator[bool]:
        """Yield nothing: there is nothing to measure."""
        return iter(())

    def use_adapters(self, adapters: object) -> None:
        """Do nothing: there are no adapters."""

    def move(self, _seq: int, _pieces: object) -> None:
        """Raise an error: `can_move` is False."""
        raise NotImplementedError

    def copy(self, _source: int, _target: int, _n: int) -> bool:
        """Return False: there is one sequence."""
        return False

    def save(self, _seq: int) -> bytes:
        """Return b"": a sequence cannot be saved."""
        return b""

    def restore(self, _seq: int, _state: bytes) -> bool:
        """Return False: a sequence cannot be saved."""
        return False

    def rebuild(self) -> None:
        """Create an empty cache after a failure."""
        self.remove(0, 0)

    def close(self) -> None:
        """Free the cache."""
        self.remove(0, 0)
