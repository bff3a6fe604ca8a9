"""Interface of a model to verify, whatever library runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.base.progress import Progress

Logits: TypeAlias = npt.NDArray[np.float32]
"""(P, V): for each of P positions, the scores of the next token."""

Kind: TypeAlias = Literal["code", "context", "fim", "greedy"]
"""Purpose of a window: ordinary code, the whole context, fill-in-the-middle, or a greedy continuation."""

_BLOCK_LOGITS = 1 << 22  # 16 MiB of float32 a block: bounds memory for any vocabulary
_MOST_ROWS = 256


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that both models read from position 0 on."""

    kind: Kind  # its purpose
    name: str  # shown in reports
    ids: tuple[int, ...]  # T tokens
    measured: range  # positions in 0 … T - 1 at which the logits are compared, ascending

    def blocks(self, n_vocab: int) -> Iterator[range]:
        """Yield the measured positions in blocks whose logits are held in memory at once."""
        rows = max(1, min(_MOST_ROWS, _BLOCK_LOGITS // n_vocab))
        for start in range(0, len(self.measured), rows):
            yield self.measured[start : start + rows]

    def cut(self, length: int) -> Window:
        """Return its first tokens, all measured. Models are causal: logits there do not change."""
        ids = self.ids[:length]
        return Window(self.kind, self.name, ids, range(len(ids)))


class LogitsSource(Protocol):
    """A language model with its tokenizer."""

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
        """Return the token ids of a text. Special tokens are parsed, none are added."""

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of some ids; invalid UTF-8 is replaced."""

    def logits(self, window: Window) -> Iterator[Logits]:
        """Yield the logits after each measured position, in the window's blocks."""


@dataclass(frozen=True, slots=True)
class Change:
    """A loss that llama.cpp may cause, tried on the reference: noise proportional to a block's values, or its GELU."""

    noise: float = 0.0  # added to matrices: share of the power of 32 weights
    tanh_gelu: bool = False  # GELU by the tanh formula, as in llama.cpp (off by 4.8e-4 at most)


class Notes(Protocol):
    """Answers about one model that are expensive to compute, by question."""

    def get(self, question: str, /) -> Mapping[str, Any] | None:
        """Return the stored answer, if any."""

    def __setitem__(self, question: str, answer: Mapping[str, Any], /) -> None:
        """Store plain values."""


class ReferenceModel(LogitsSource, Protocol):
    """A model that others are compared with."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Package → version of the libraries that run it."""

    @property
    def files(self) -> Mapping[str, str]:
        """Name → SHA-256 of the files that it was read from."""

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """The numbers of `hyperparameters` that its config has."""

    @property
    def notes(self) -> Notes:
        """Answers kept for the next run."""

    def prepare(self, windows: Sequence[Window], progress: Progress) -> None:
        """Compute these windows ahead of `logits`, in as few passes over the weights as possible."""

    def changed(self, change: Change) -> ReferenceModel | None:
        """Return the model with a change; None if it changes nothing or cannot be applied."""

    def continued(self, ids: Sequence[int], n: int) -> list[int] | None:
        """Return the n tokens of its greedy continuation; None if generating is too slow."""
