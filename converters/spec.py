"""A model family as data: how its checkpoint maps to a GGUF.

Each GGUF tensor consists of whole rows of source tensors, so rows are moved and never computed. Before a byte is
read, the planner can check that every source row is used exactly once and that every shape fits.

Shapes are written in letters: D hidden size, H query heads, K key/value heads, d head size, F feed-forward size,
V vocabulary rows, T context length, R rotary dimensions. "{i}" in a name runs over the L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from converters.hfconfig import HfConfig

IntArray: TypeAlias = "npt.NDArray[np.intp]"
RowOrder: TypeAlias = "Callable[[Dims], IntArray]"
"""Geometry → the source row of each target row."""
Condition: TypeAlias = "Callable[[HfConfig], bool]"
Shape: TypeAlias = "tuple[str, ...]"
"""Outermost first, as in PyTorch; each entry is a sum of products of letters and numbers: "D + 2*K*d"."""


@dataclass(frozen=True, slots=True)
class Dims:
    """A model's geometry, from its config."""

    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_inner: int
    n_vocab: int
    n_ctx: int
    rotary_dim: int = 0
    head_size: int = 0  # 0 means n_embd / n_head

    @property
    def head_dim(self) -> int:
        """Dimensions of one head."""
        return self.head_size or self.n_embd // max(1, self.n_head)

    def problems(self) -> list[str]:
        """Return the reasons why this geometry is impossible."""
        found = [
            f"{name} is {value}; it must be positive"
            for name in ("n_embd", "n_layer", "n_head", "n_head_kv", "n_inner", "n_vocab", "n_ctx")
            if (value := getattr(self, name)) <= 0
        ]
        if found:
            return found
        if not self.head_size and self.n_embd % self.n_head:
            found.append(
                f"the number of heads, {self.n_head}, does not divide the hidden size, {self.n_embd}"
            )
        if self.n_head % self.n_head_kv:
            found.append(f"{self.n_head_kv} key/value heads do not divide {self.n_head} heads")
        if self.rotary_dim % 2 or not 0 <= self.rotary_dim <= self.head_dim:
            found.append(
                f"{self.rotary_dim} rotary dimensions: must be even and at most the head's {self.head_dim}"
            )
        return found

    def size(self, expression: str) -> int:
        """Evaluate an expression such as "D + 2*K*d".

        >>> Dims(n_embd=8, n_layer=1, n_head=4, n_head_kv=1, n_inner=32, n_vocab=10, n_ctx=16).size("D + 2*K*d")
        12
        """
        letters = {
            "D": self.n_embd, "H": self.n_head, "K": self.n_head_kv, "d": self.head_dim,
            "F": self.n_inner, "V": self.n_vocab, "T": self.n_ctx, "R": self.rotary_dim,
        }  # fmt: skip
        total = 0
        for term in expression.split("+"):
            product = 1
            for factor in term.split("*"):
                name = factor.strip()
                product *= letters[name] if name in letters else int(name)
            total += product
        return total

    def shape(self, shape: Shape) -> tuple[int, ...]:
        """Evaluate a symbolic shape."""
        return tuple(self.size(entry) for entry in shape)


@dataclass(frozen=True, slots=True)
class SourceRows:
    """Rows of one source tensor."""

    source: str  # name in the checkpoint
    shape: Shape  # the shape it must have there
    rows: RowOrder | None = None  # None takes all rows in order
    transpose: bool = False  # stored as (in, out), like GPT-2's Conv1D; takes all rows


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of the GGUF: its parts, stacked along the rows; without parts, zeros of `shape`.

    A `tied` tensor is left out if the config ties it to the token embedding; a copy in the checkpoint is then
    dropped, as transformers does.
    """

    name: str
    parts: tuple[SourceRows, ...] = ()
    shape: Shape = ()
    when: Condition | None = None  # None means always
    tied: bool = False
    positions: bool = False  # a table of learned positions


def copy(
    name: str,
    source: str,
    *shape: str,
    rows: RowOrder | None = None,
    tied: bool = False,
    positions: bool = False,
) -> TensorSpec:
    """Rename one source tensor, and reorder its rows if `rows` is given."""
    return TensorSpec(name, (SourceRows(source, shape, rows),), tied=tied, positions=positions)


def affine(
    name: str, source: str, *shape: str, rows: RowOrder | None = None, bias: Condition | None = None
) -> tuple[TensorSpec, TensorSpec]:
    """Copy a layer's weight, and its bias if `bias` holds; names are without ".weight"."""
    weight = copy(f"{name}.weight", f"{source}.weight", *shape, rows=rows)
    return weight, replace(copy(f"{name}.bias", f"{source}.bias", shape[0], rows=rows), when=bias)


def zeros(name: str, *shape: str) -> TensorSpec:
    """Fill with zeros a tensor that the target's graph requires and the source lacks, where zero has no effect."""
    return TensorSpec(name, (), shape)


@dataclass(frozen=True, slots=True)
class Key:
    """Metadata key "{arch}.NAME" and its value, not written if None."""

    name: str
    value: Callable[[HfConfig, Dims], Any]


@dataclass(frozen=True, slots=True)
class Require:
    """A config value that the target's graph has built in; any other value is refused."""

    field: str
    allowed: tuple[Any, ...]
    absent: Any = None  # transformers' default for a missing field


@dataclass(frozen=True, slots=True)
class ArchSpec:
    """One model family.

    `pre` is llama.cpp's name of the pre-tokenizer, used if several names mean the same cut, or if the tokenizer's
    files (vocab.json and merges.txt) do not say how text is cut. `check` returns problems beyond `Dims.problems`;
    `exports` has the tensors of other checkpoints, by `convert --to NAME`; `meant` distinguishes families of the
    same `architecture`.
    """

    architecture: str  # in config.json's `architectures`
    gguf: str  # the llama.cpp architecture
    dims: Callable[[HfConfig], Dims]
    keys: tuple[Key, ...]
    require: tuple[Require, ...]
    tensors: tuple[TensorSpec, ...]
    pre: str
    drop: tuple[str, ...] = ()  # patterns of buffers that the code recomputes
    prefix: str = ""  # of every name, which some exports leave out ("model.")
    ties_by_default: bool = False  # default of the config's tie_word_embeddings
    check: Callable[[Dims], list[str]] = field(default=lambda _: [])
    exports: Mapping[str, tuple[TensorSpec, ...]] = field(default_factory=dict)
    meant: Condition = field(default=lambda _: True)
