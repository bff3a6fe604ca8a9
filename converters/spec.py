"""What a model family is: data that says how its checkpoint maps to a GGUF.

Each GGUF tensor is made of whole rows of source tensors, so that nothing is computed, only placed. That makes
three things provable before a byte is read: every source row is used exactly once, every shape fits, and
quantized rows can be moved like any others.

Shapes are written in letters, as in the papers: D hidden size, H query heads, K key/value heads,
d head size, F feed-forward size, V vocabulary rows, T context length, R rotary dimensions.
"{i}" in a name runs over the L layers.
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
"""Geometry → for each row of the target, in order, the row of the source that it is."""
Condition: TypeAlias = "Callable[[HfConfig], bool]"
Shape: TypeAlias = "tuple[str, ...]"
"""Outermost first, as PyTorch prints it; each entry a sum of products of letters and numbers: "D + 2*K*d"."""


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
    head_size: int = 0
    """0: n_embd / n_head, as in nearly every model."""

    @property
    def head_dim(self) -> int:
        """Dimensions of one head."""
        return self.head_size or self.n_embd // max(1, self.n_head)

    def problems(self) -> list[str]:
        """Describe what makes this geometry impossible."""
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
        """The value of "D + 2*K*d" and the like.

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
        """A symbolic shape in numbers."""
        return tuple(self.size(entry) for entry in shape)


@dataclass(frozen=True, slots=True)
class SourceRows:
    """Rows of one source tensor.

    Args:
        source: its name in the checkpoint.
        shape: the shape it must have there.
        rows: which of its rows, in which order; None means all, as they are.
        transpose: turn it: the checkpoint stores (in, out), as GPT-2's Conv1D does. All rows are taken then.
    """

    source: str
    shape: Shape
    rows: RowOrder | None = None
    transpose: bool = False


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of the GGUF: its parts, stacked along the rows; no parts means zeros of `shape`.

    Args:
        when: the config under which the model has it; None means always.
        tied: the same as the token embedding if the config ties them. It is left out then, and a copy in the
            checkpoint is dropped, as transformers does when it loads one.
        positions: a table of learned positions.
    """

    name: str
    parts: tuple[SourceRows, ...] = ()
    shape: Shape = ()
    when: Condition | None = None
    tied: bool = False
    positions: bool = False


def copy(
    name: str,
    source: str,
    *shape: str,
    rows: RowOrder | None = None,
    tied: bool = False,
    positions: bool = False,
) -> TensorSpec:
    """One source tensor under another name, its rows perhaps in another order."""
    return TensorSpec(name, (SourceRows(source, shape, rows),), tied=tied, positions=positions)


def affine(
    name: str, source: str, *shape: str, rows: RowOrder | None = None, bias: Condition | None = None
) -> tuple[TensorSpec, TensorSpec]:
    """A linear layer's or a norm's weight, and its bias under the condition; names without ".weight"."""
    weight = copy(f"{name}.weight", f"{source}.weight", *shape, rows=rows)
    return weight, replace(copy(f"{name}.bias", f"{source}.bias", shape[0], rows=rows), when=bias)


def zeros(name: str, *shape: str) -> TensorSpec:
    """A tensor that the target's graph demands and the source's network lacks, where zero changes nothing."""
    return TensorSpec(name, (), shape)


@dataclass(frozen=True, slots=True)
class Key:
    """One metadata key "{arch}.NAME" and where its value comes from; None is not written."""

    name: str
    value: Callable[[HfConfig, Dims], Any]


@dataclass(frozen=True, slots=True)
class Require:
    """A config value that the target's graph has built in: anything else is refused, never ignored.

    Args:
        allowed: values under which the graph computes what the checkpoint means.
        absent: what the model's code assumes if the field is missing (transformers' default).
    """

    field: str
    allowed: tuple[Any, ...]
    absent: Any = None


@dataclass(frozen=True, slots=True)
class ArchSpec:
    """One family: everything that the engine needs to plan and write its GGUF.

    Args:
        architecture: the name in config.json's `architectures`.
        gguf: the llama.cpp architecture whose graph computes it.
        keys: metadata under the architecture's name.
        require: config values that must hold.
        tensors: every tensor of the GGUF, in file order.
        pre: llama.cpp's name of the pre-tokenizer, if it has several for one cut, or if the files (vocab.json
            and merges.txt) do not say how text is cut.
        drop: patterns of source tensors that carry nothing (buffers that the code recomputes).
        prefix: what some exports put before every name and others leave out ("model.").
        ties_by_default: whether the head is the token embedding if the config does not say.
        check: conditions on the geometry beyond `Dims.problems`, in words.
        exports: other checkpoints that it can be written as, by name (`convert --to NAME`): their tensors.
        meant: whether a config is of this family, if several share the architecture's name.
    """

    architecture: str
    gguf: str
    dims: Callable[[HfConfig], Dims]
    keys: tuple[Key, ...]
    require: tuple[Require, ...]
    tensors: tuple[TensorSpec, ...]
    pre: str
    drop: tuple[str, ...] = ()
    prefix: str = ""
    ties_by_default: bool = False
    check: Callable[[Dims], list[str]] = field(default=lambda _: [])
    exports: Mapping[str, tuple[TensorSpec, ...]] = field(default_factory=dict)
    meant: Condition = field(default=lambda _: True)
