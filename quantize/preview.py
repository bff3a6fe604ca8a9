"""Types and exact sizes of the tensors in a quantized file, computed from the source's header."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from quantize.options import QuantizeOptions, check_overrides
from quantize.recipes import Recipe, needs_imatrix
from turbopilot.base.errors import InvalidInput, QuantizationError
from turbopilot.formats.ggml_types import BLOCKS, FLOATS, n_bytes
from turbopilot.formats.gguf.file import GgufHeader, TensorInfo
from turbopilot.llama.mixture import Mixture, fallback, is_quantized, role_of

_ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT: llama.cpp writes files with it regardless of the source's alignment


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """One tensor of the output.

    `shape` is innermost first. `wanted` is the planned type if the rows are not a multiple of its block size and a
    fallback is used instead, otherwise "".
    """

    name: str
    shape: tuple[int, ...]
    before: str
    after: str
    wanted: str = ""

    @property
    def n_weights(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes_before(self) -> int:
        """Size of the tensor data in the source."""
        return n_bytes(self.before, self.n_weights)

    @property
    def bytes_after(self) -> int:
        """Size of the tensor data in the output."""
        return n_bytes(self.after, self.n_weights)


@dataclass(frozen=True, slots=True)
class Preview:
    """All tensors of the output, in the order of the file.

    `n_overhead` is the number of bytes in the source that are not tensor data. The output has about as many.
    """

    name: str
    tensors: tuple[QuantizedTensor, ...]
    n_overhead: int

    @property
    def tensor_bytes(self) -> int:
        """Size of the data of all tensors."""
        return sum(t.bytes_after for t in self.tensors)

    @property
    def file_bytes(self) -> int:
        """Size of the output, accurate to a few hundred bytes: added metadata keys are not counted."""
        return self.n_overhead + sum(
            t.bytes_after + -t.bytes_after % _ALIGNMENT for t in self.tensors
        )

    @property
    def bits_per_weight(self) -> float:
        """Average bits per weight over all tensors."""
        return 8 * self.tensor_bytes / max(1, sum(t.n_weights for t in self.tensors))

    def weights_by_type(self) -> Mapping[str, int]:
        """Return the number of weights in matrices of each type."""
        found: Counter[str] = Counter()
        for t in self.tensors:
            if len(t.shape) > 1:
                found[t.after] += t.n_weights
        return found

    def fallbacks(self) -> tuple[str, ...]:
        """Return a message for each tensor whose rows are not a multiple of the type's block size."""
        return tuple(
            f"{t.name}: row length {t.shape[0]:,} is not a multiple of {BLOCKS[t.wanted][0]} ({t.wanted}); "
            f"{t.after} was used"
            for t in self.tensors
            if t.wanted
        )

    def requantized(self) -> tuple[QuantizedTensor, ...]:
        """Return the tensors that are already quantized and would change their type."""
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
    """Plan the type of every tensor, as llama.cpp does.

    Raises:
        InvalidInput: an override cannot be used.
        QuantizationError: there are no tensors, or no type fits the row length of a tensor.
    """
    if not before.tensors:
        raise QuantizationError(
            f"{before.path}: contains no tensors, only a vocabulary",
            hint="give the file that contains the weights",
        )
    if options.overrides and recipe.base in FLOATS:
        raise InvalidInput(
            f"--tensor-type: llama.cpp ignores it if the file type is {recipe.name}",
            hint="choose a quantized file type, and --tensor-type PATTERN=F16 for single tensors",
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
                f"{before.path}: {t.name}: row length {t.shape[0]:,} is not a multiple of the block size of {wanted}, "
                "and llama.cpp has no fallback type",
                hint="choose a type with smaller blocks: Q8_0, Q5_0, Q4_0 or IQ4_NL",
            )
        planned.append(
            QuantizedTensor(t.name, t.shape, t.type_name, after, wanted if wanted != after else "")
        )
    return Preview(recipe.name, tuple(planned), before.file_size - before.tensor_bytes)


def _types(
    t: TensorInfo, mixture: Mixture, recipe: Recipe, options: QuantizeOptions
) -> tuple[str, str]:
    """Return the planned type of a tensor, and the type or fallback that its rows fit."""
    role, override = role_of(t.name), options.override_of(t.name)
    overridden = override and t.name.startswith("per_layer")
    if role == "token_embd" and options.embedding_type and not overridden:
        return options.embedding_type, options.embedding_type
    if role == "output" and options.output_type:
        return options.output_type, options.output_type
    wanted = override or (recipe.base if options.pure else mixture.type_of(t.name, t.shape))
    return wanted, fallback(wanted, t.shape[0])


def _in_order(header: GgufHeader, *, keep_split: bool) -> list[TensorInfo]:
    """Return the tensors sorted by layer and name, as llama.cpp does; by file and offset if `keep_split`."""
    if keep_split:
        return sorted(header.tensors, key=lambda t: (t.path, t.offset))

    def place(t: TensorInfo) -> tuple[int, str]:
        layer = re.match(r"blk\.(\d+)", t.name)
        return int(layer[1]) if layer else -1, t.name

    return sorted(header.tensors, key=place)
