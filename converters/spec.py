"""Description of a model family as data: how its checkpoint maps to a GGUF.

Each GGUF tensor consists of whole rows of source tensors. Before any data is read, the planner can therefore check
that every source row is used exactly once and all shapes match. Conversion moves rows. Values are computed only for
parts with a `scale` or an `offset`, for graphs that have another constant built in than the source's.

Shapes are written in letters: D hidden size, H query heads, K key/value heads, d head size, F feed-forward size,
V vocabulary rows, T context length, R rotary dimensions, and those that a family adds in `Dims.more`. "{i}" in a
name is the layer's index, 0 to L - 1.

The rows of a tensor with more than two dimensions are those of all its matrices, one matrix after the other: a stack
of E matrices, (E, F, D), has E*F rows.
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
"""Function from a geometry to the source row of each target row."""
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
    more: Mapping[str, int] = field(default_factory=dict)  # the family's own sizes, by letter

    @property
    def head_dim(self) -> int:
        """Number of dimensions of one head."""
        return self.head_size or self.n_embd // max(1, self.n_head)

    def problems(self) -> list[str]:
        """Return the reasons why this geometry is invalid."""
        found = [
            f"{name} is {value}; it must be positive"
            for name in ("n_embd", "n_layer", "n_head", "n_head_kv", "n_inner", "n_vocab", "n_ctx")
            if (value := getattr(self, name)) <= 0
        ]
        found += [f"{name} is {n}; it must be positive" for name, n in self.more.items() if n <= 0]
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
                f"{self.rotary_dim} rotary dimensions: must be even and at most the head size, {self.head_dim}"
            )
        return found

    def size(self, expression: str) -> int:
        """Evaluate an expression such as "D + 2*K*d".

        >>> Dims(n_embd=8, n_layer=1, n_head=4, n_head_kv=1, n_inner=32, n_vocab=10, n_ctx=16).size("D + 2*K*d")
        12
        """
        letters = {
            "D": self.n_embd, "H": self.n_head, "K": self.n_head_kv, "d": self.head_dim,
            "F": self.n_inner, "V": self.n_vocab, "T": self.n_ctx, "R": self.rotary_dim, **self.more,
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
    """Rows of one source tensor, or of several.

    If `each` is a size such as "E", this stands for E parts: one for each of the tensors that "{e}" in `source` numbers
    from 0 to E - 1 or, without "{e}", one for each of E equal pieces of the rows.
    """

    source: str  # name in the checkpoint
    shape: Shape  # required shape in the checkpoint
    rows: RowOrder | None = None  # None means all rows in order
    transpose: bool = False  # the rows are transposed, each piece for itself
    each: str = ""
    scale: Callable[[Dims], float] | None = None  # multiplies every value; None means 1
    offset: float = 0.0  # added to every value, after `scale`


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A GGUF tensor: its parts stacked along the rows or, without parts, zeros of `shape`.

    A `tied` tensor is omitted if the config ties it to the token embedding. A copy in the checkpoint is then
    dropped, as in transformers.
    """

    name: str
    parts: tuple[SourceRows, ...] = ()
    shape: Shape = ()  # with parts: only for more than two dimensions
    when: Condition | None = None  # None means always
    tied: bool = False
    positions: bool = False  # learned position embeddings
    exact: bool = False  # F32 in every file
    layers: Callable[[Dims], range] | None = None  # layers that have it; None means all
    others: tuple[
        tuple[SourceRows, ...], ...
    ] = ()  # other parts that some checkpoints have instead


def copy(
    name: str,
    source: str,
    *shape: str,
    rows: RowOrder | None = None,
    tied: bool = False,
    positions: bool = False,
) -> TensorSpec:
    """Return a tensor that is one source tensor under a new name, with its rows reordered if `rows` is given."""
    return TensorSpec(name, (SourceRows(source, shape, rows),), tied=tied, positions=positions)


def affine(
    name: str, source: str, *shape: str, rows: RowOrder | None = None, bias: Condition | None = None
) -> tuple[TensorSpec, TensorSpec]:
    """Return a layer's weight and bias, the bias only if the condition `bias` is true; names omit ".weight"."""
    weight = copy(f"{name}.weight", f"{source}.weight", *shape, rows=rows)
    return weight, replace(copy(f"{name}.bias", f"{source}.bias", shape[0], rows=rows), when=bias)


def zeros(name: str, *shape: str) -> TensorSpec:
    """Return a tensor of zeros, which the target graph requires but the source lacks, such as a bias."""
    return TensorSpec(name, (), shape)


@dataclass(frozen=True, slots=True)
class Key:
    """Metadata key "{arch}.NAME" and its value; a value of None is not written."""

    name: str
    value: Callable[[HfConfig, Dims], Any]


@dataclass(frozen=True, slots=True)
class Require:
    """A config field whose value is built into the target graph; other values are rejected."""

    field: str
    allowed: tuple[Any, ...]
    absent: Any = None  # transformers' default for a missing field


@dataclass(frozen=True, slots=True)
class ArchSpec:
    """One model family.

    `pre` is llama.cpp's name for the pre-tokenizer. It is used if llama.cpp has several names for the same
    pre-tokenizer, or if the tokenizer's files (vocab.json and merges.txt) do not define one. `check` returns problems
    that `Dims.problems` does not cover. `exports` contains the tensors for each NAME of `convert --to NAME`. `meant`
    distinguishes families with the same `architecture`.
    """

    architecture: str  # in config.json's `architectures`
    gguf: str  # the llama.cpp architecture
    dims: Callable[[HfConfig], Dims]
    keys: tuple[Key, ...]
    require: tuple[Require, ...]
    tensors: tuple[TensorSpec, ...]
    pre: str
    drop: tuple[str, ...] = ()  # regular expressions for buffers that the model recomputes
    prefix: str = ""  # start of all names, omitted in some exports ("model.")
    ties_by_default: bool = False  # default of the config's tie_word_embeddings
    check: Callable[[Dims], list[str]] = field(default=lambda _: [])
    exports: Mapping[str, tuple[TensorSpec, ...]] = field(default_factory=dict)
    meant: Condition = field(default=lambda _: True)
