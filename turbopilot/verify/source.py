"""Interfaces of the models that verify compares, independent of the library that runs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.base.progress import Progress

if TYPE_CHECKING:
    from turbopilot.verify.tokenizer_files import TokenizerFiles

Logits: TypeAlias = npt.NDArray[np.float32]
"""Scores of the next token for each of P positions, (P, V)."""

Kind: TypeAlias = Literal["code", "context", "fim", "greedy"]
"""Purpose of a window: ordinary code, the whole context, fill-in-the-middle, or a greedy continuation."""

_BLOCK_LOGITS = 1 << 22  # 16 MiB of float32 a block: bounds memory for any vocabulary
_MOST_ROWS = 256


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that both models read, starting at position 0."""

    kind: Kind  # purpose of the window
    name: str  # shown in reports
    ids: tuple[int, ...]  # T tokens
    measured: range  # positions in 0 … T - 1 at which the logits are compared, ascending

    def blocks(self, n_vocab: int) -> Iterator[range]:
        """Yield the measured positions in blocks that are small enough to hold their logits in memory."""
        rows = max(1, min(_MOST_ROWS, _BLOCK_LOGITS // n_vocab))
        for start in range(0, len(self.measured), rows):
            yield self.measured[start : start + rows]

    def cut(self, length: int) -> Window:
        """Return a window of the first tokens, all measured. Models are causal, so the logits are the same."""
        ids = self.ids[:length]
        return Window(self.kind, self.name, ids, range(len(ids)))


class LogitsSource(Protocol):
    """Language model with its tokenizer."""

    @property
    def name(self) -> str:
        """File or folder of the model."""

    @property
    def n_vocab(self) -> int:
        """V, the rows of the output head; the tokenizer may use fewer."""

    @property
    def n_ctx(self) -> int:
        """Context length in tokens."""

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text. Special tokens are parsed, but never added."""

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of some ids; invalid UTF-8 is replaced."""

    def logits(self, window: Window) -> Iterator[Logits]:
        """Yield the logits at each measured position, one of the window's blocks at a time."""


@dataclass(frozen=True, slots=True)
class Change:
    """Change applied to the reference to measure its effect: quantization noise, or llama.cpp's GELU."""

    noise: float = 0.0  # added to matrices: its power relative to that of each block of 32 weights
    tanh_gelu: bool = False  # GELU by the tanh formula, as in llama.cpp (off by 4.8e-4 at most)


class Notes(Protocol):
    """Store of expensive results about one model; a question is the key, an answer the value."""

    def get(self, question: str, /) -> Mapping[str, Any] | None:
        """Return the stored answer, if any."""

    def __setitem__(self, question: str, answer: Mapping[str, Any], /) -> None:
        """Store an answer, which must be JSON-serializable."""


class ReferenceModel(LogitsSource, Protocol):
    """Model that candidates are compared with."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Package → version of the libraries that run the model."""

    @property
    def files(self) -> Mapping[str, str]:
        """Name → SHA-256 of the model's files."""

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """GGUF key → value of the hyperparameters in the config; see the module `hyperparameters`."""

    @property
    def tokenizer_files(self) -> TokenizerFiles:
        """Vocabulary, merges and added tokens in the model's files."""

    @property
    def notes(self) -> Notes:
        """Results kept for the next run."""

    def prepare(self, windows: Sequence[Window], progress: Progress) -> None:
        """Compute these windows before `logits` is called, in as few passes over the weights as possible."""

    def changed(self, change: Change) -> ReferenceModel | None:
        """Return the model with a change applied; None if it has no effect or cannot be applied."""

    def continued(self, ids: Sequence[int], n: int) -> list[int] | None:
        """Return n tokens of greedy continuation; None if generating is too slow."""
