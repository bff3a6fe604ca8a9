"""What verify asks of a model, whoever runs it. Knows nothing of torch, llama.cpp or files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.base.progress import Progress

Logits: TypeAlias = npt.NDArray[np.float32]
"""(P, V): for each of P positions, the scores of what comes next."""

Kind: TypeAlias = Literal["code", "context", "fim", "greedy"]
"""Why a window is there: ordinary code; as long as the context; with a hole to fill; a continuation."""

_BLOCK_LOGITS = 1 << 22  # 16 MiB of float32 a block: bounds memory whatever the vocabulary
_MOST_ROWS = 256


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that both models read from position 0 on, and the positions at which they are compared.

    Attributes:
        kind: why it is there.
        name: for a person.
        ids: T tokens.
        measured: positions in 0 … T - 1, ascending.
    """

    kind: Kind
    name: str
    ids: tuple[int, ...]
    measured: range

    def blocks(self, n_vocab: int) -> Iterator[range]:
        """The measured positions in blocks of which the logits are held at once."""
        rows = max(1, min(_MOST_ROWS, _BLOCK_LOGITS // n_vocab))
        for start in range(0, len(self.measured), rows):
            yield self.measured[start : start + rows]

    def cut(self, length: int) -> Window:
        """Its first tokens, all measured. Models are causal: what was measured there does not change."""
        ids = self.ids[:length]
        return Window(self.kind, self.name, ids, range(len(ids)))


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

    def logits(self, window: Window) -> Iterator[Logits]:
        """The logits after each measured position, in the window's blocks. Each id is below n_vocab."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a candidate may rightly lose, to be tried on the reference itself.

    Attributes:
        noise: put on every matrix, as a share of the weights' own power in each block of 32 along a row:
            as quantizing errs in proportion to what is in a block.
        tanh_gelu: compute GELU by the tanh formula, as llama.cpp does; it is off by at most 4.8e-4.
    """

    noise: float = 0.0
    tanh_gelu: bool = False


class Reference(LogitsSource, Protocol):
    """A model that judges another: it can run long before it is asked, and show how much it minds a change."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Package → version of what runs it."""

    @property
    def files(self) -> Mapping[str, str]:
        """Name → SHA-256 of what it was read from."""

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """The numbers of `hyperparameters` that its config has."""

    def prepare(self, windows: Sequence[Window], progress: Progress) -> None:
        """Do the work for these windows now, in as few passes over the weights as there can be."""

    def changed(self, change: Change) -> LogitsSource | None:
        """The model with a change; None where that changes nothing, or cannot be tried."""

    def remembered(self, question: str) -> Mapping[str, object] | None:
        """An answer that `remember` was given to the same question about the same model."""

    def remember(self, question: str, answer: Mapping[str, object]) -> None:
        """Keep plain values for the next run."""

    def continued(self, ids: Sequence[int], n: int) -> list[int] | None:
        """The n tokens that it would write after the ids, always its first choice; None where that is too slow."""
