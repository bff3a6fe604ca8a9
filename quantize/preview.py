"""Types and exact sizes of a quantized file's tensors, computed from the source's header."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from quantize.options import QuantizeOptions, check_overrides
from quantize.recipes import Recipe, needs_imatrix
from turbopilot.base.errors import InvalidInput, QuantizationError
from turbopilot.formats.ggml_types import BLOCKS, FLOATS, n_bytes
from turbopilot.formats.gguf.file import GgufHeader, TensorInfo
from turbopilot.llama.mixture import Mixture, fallback, is_quantized, role_of

_ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT: llama.cpp writes with it whatever the source has


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """One tensor, its shape innermost first; `wanted` is the type that its rows do not fit, else ""."""

    name: str
    shape: tuple[int, ...]
    before: str
    after: str
    wanted: str = ""

    @property
    def n_weights(self) -> int:
        """Return the number of elements."""
        return prod(self.shape)

    @property
    def bytes_before(self) -> int:
        """Return the size of its data in the source."""
        return n_bytes(self.before, self.n_weights)

    @property
    def bytes_after(self) -> int:
        """Return the size of its data in the output."""
        return n_bytes(self.after, self.n_weights)


@dataclass(frozen=True, slots=True)
class Preview:
    """All tensors of the output, in its order.

    `n_overhead` are the bytes of the source that are not tensor data, about as many as the output has.
    """

    name: str
    tensors: tuple[QuantizedTensor, ...]
    n_overhead: int

    @property
    def tensor_bytes(self) -> int:
        """Return the size of all tensors' data."""
        return sum(t.bytes_after for t in self.tensors)

    @property
    def file_bytes(self) -> int:
        """Return the size of the output to a few hundred bytes: added metadata keys are not counted."""
        return self.n_overhead + sum(
            t.bytes_after + -t.bytes_after % _ALIGNMENT for t in self.tensors
        )

    @property
    def bits_per_weight(self) -> float:
        """Return the average over all tensors."""
        return 8 * self.tensor_bytes / max(1, sum(t.n_weights for t in self.tensors))

    def fallbacks(self) -> tuple[str, ...]:
        """Return a line for each tensor whose rows are not whole blocks of the type."""
        return tuple(
            f"{t.name}: rows of {t.shape[0]:,} are not whole blocks of {BLOCKS[t.wanted][0]} ({t.wanted}); "
            f"{t.after} was used"
            for t in self.tensors
            if t.wanted
        )

    def requantized(self) -> tuple[QuantizedTensor, ...]:
        """Return the tensors that would be quantized a second time."""
        return tuple(t for t in self.tensors if t.before not in FLOATS and t.after != t.before)

    def without_imatrix(self, entries: Iterable[str] = ()) -> tuple[QuantizedTensor, ...]:
        """Return the tensors whose type needs an entry that the importance matrix lacks."""
        has = set(entries)
        return tuple(
            t
            for t in self.tensors
            if t.after != t.before
            and t.name not in has
            and needs_imatrix(t.name, t.after, self.name)
        )


def preview_of(before: GgufHeader, recipe: Recipe, options: QuantizeOptions) -> Preview:
    """Plan every tensor of the output, as llama.cpp does; refuse rows and overrides that do not fit."""
    if not before.tensors:
        raise QuantizationError(
            f"{before.path}: holds no tensors: it is only a vocabulary",
            hint="give the file that holds the weights",
        )
    if options.overrides and recipe.base in FLOATS:
        raise InvalidInput(
            f"--tensor-type: llama.cpp ignores it where the file is to be {recipe.name}",
            hint="name a quantized type for the file, and F16 for single tensors",
        )
    names = [t.name for t in before.tensors]
    check_overrides(options.overrides, names)
    mixture = Mixture(
        recipe.name, recipe.base, before.metadata, names, options.output_type, bool(options.imatrix)
    )
    planned = []
    for t in _in_order(before, keep_split=options.keep_split):
        wanted = after = t.type_name
        if is_quantized(t.name, t.shape, before.architecture):
            wanted, after = _types(t, mixture, recipe, options)
        if t.shape[0] % BLOCKS[after][0]:
            raise QuantizationError(
                f"{before.path}: {t.name}: rows of {t.shape[0]:,} are not whole blocks of {wanted}, and llama.cpp has "
                "no other type for them",
                hint="choose a type with smaller blocks: Q8_0, Q5_0, Q4_0 or IQ4_NL",
            )
        planned.append(
            QuantizedTensor(t.name, t.shape, t.type_name, after, wanted if wanted != after else "")
        )
    return Preview(recipe.name, tuple(planned), before.file_size - before.tensor_bytes)


def _types(
    t: TensorInfo, mixture: Mixture, recipe: Recipe, options: QuantizeOptions
) -> tuple[str, str]:
    """Return the type that a tensor should have, and the one that its rows fit."""
    role, override = role_of(t.name), options.override_of(t.name)
    overridden = override and t.name.startswith("per_layer")
    if role == "token_embd" and options.embedding_type and not overridden:
        return options.embedding_type, options.embedding_type
    if role == "output" and options.output_type:
        return options.output_type, options.output_type
    wanted = override or (recipe.base if options.pure else mixture.type_of(t.name, t.shape))
    return wanted, fallback(wanted, t.shape[0])


def _in_order(header: GgufHeader, *, keep_split: bool) -> list[TensorInfo]:
    """Sort by layer and name as llama.cpp does, or by position in the parts of a model that stays split."""
    if keep_split:
        return sorted(header.tensors, key=lambda t: (t.path, t.offset))

    def place(t: TensorInfo) -> tuple[int, str]:
        layer = re.match(r"blk\.(\d+)", t.name)
        return int(layer[1]) if layer else -1, t.name

    return sorted(header.tensors, key=place)
