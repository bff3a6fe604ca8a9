"""What llama.cpp will do with each tensor, as it says itself before it does anything. Pure: from its log to values.

Source: llama-quant.cpp, `llama_model_quantize_impl` with `dry_run`, and `tensor_type_fallback`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from quantize.tensor_types import BLOCKS, FLOATS, n_bytes, needs_imatrix
from turbopilot.formats.gguf.file import GgufHeader

_ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT: llama.cpp writes with it whatever the source has
# "[  12/  49] blk.0.attn_q.weight - [ 256, …], type = f16, size = 1.00 MiB -> 0.28 MiB (q4_0)"
TENSOR_LINE = re.compile(r"\[\s*(?P<done>\d+)/\s*(?P<of>\d+)\]\s+(?P<name>\S+)")
_BECOMES = re.compile(r"->.*\((?P<type>\w+)\)\s*$")
# "warning: NAME - ncols 576 not divisible by 256 (required for type q4_K) -> falling back to q5_0"
_FALLBACK = re.compile(
    r"warning: (?P<name>\S+)\s+- ncols\s+\d+ not divisible by\s+\d+ \(required for type\s+(?P<wanted>\w+)\)"
)


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor.

    Attributes:
        name: its name.
        shape: innermost first, as GGUF has it.
        before: its type in the source.
        after: its type in the output.
        wanted: the type that its rows do not fit, so that `after` was taken; "" where they fit.
    """

    name: str
    shape: tuple[int, ...]
    before: str
    after: str
    wanted: str = ""

    @property
    def n_weights(self) -> int:
        """Number of elements."""
        n = 1
        for size in self.shape:
            n *= size
        return n

    @property
    def bytes_before(self) -> int:
        """Size of its data in the source."""
        return n_bytes(self.before, self.n_weights)

    @property
    def bytes_after(self) -> int:
        """Size of its data in the output."""
        return n_bytes(self.after, self.n_weights)

    @property
    def why_not(self) -> str:
        """Why it is not in the type that was wanted; "" where it is."""
        if not self.wanted:
            return ""
        return (
            f"{self.name}: rows of {self.shape[0]:,} are no whole blocks of {BLOCKS[self.wanted][0]} "
            f"({self.wanted}); {self.after} was used"
        )


@dataclass(frozen=True, slots=True)
class Preview:
    """All tensors of the output, in its order.

    Attributes:
        recipe: the name of the file type.
        tensors: what becomes of each.
        n_overhead: bytes of the source that are no tensor data: about what the output has too.
    """

    recipe: str
    tensors: tuple[PlannedTensor, ...]
    n_overhead: int

    @property
    def tensor_bytes(self) -> int:
        """Size of all tensors' data."""
        return sum(t.bytes_after for t in self.tensors)

    @property
    def file_bytes(self) -> int:
        """Size of the output, to a few hundred bytes: padding is counted, a key more or less is not."""
        return self.n_overhead + sum(
            t.bytes_after + -t.bytes_after % _ALIGNMENT for t in self.tensors
        )

    @property
    def bits_per_weight(self) -> float:
        """Average over all tensors."""
        return 8 * self.tensor_bytes / max(1, sum(t.n_weights for t in self.tensors))

    def fallbacks(self) -> tuple[str, ...]:
        """Each tensor whose rows fit no whole blocks, and what was used instead."""
        return tuple(t.why_not for t in self.tensors if t.wanted)

    def requantized(self) -> tuple[PlannedTensor, ...]:
        """Tensors that would be quantized a second time."""
        return tuple(t for t in self.tensors if t.before not in FLOATS and t.after != t.before)

    def without_imatrix(self, entries: Iterable[str] = ()) -> tuple[PlannedTensor, ...]:
        """Tensors whose type needs an importance matrix that has no entry of theirs."""
        has = set(entries)
        return tuple(
            t
            for t in self.tensors
            if t.after != t.before
            and t.name not in has
            and needs_imatrix(t.name, t.after, self.recipe)
        )


def read_preview(lines: Iterable[str], before: GgufHeader, recipe: str) -> Preview:
    """Parse the log of a dry run.

    Args:
        lines: llama.cpp's, whole.
        before: the source.
        recipe: the name of the file type.
    """
    known = {t.name: t for t in before.tensors}
    wanted: dict[str, str] = {}
    planned: dict[str, PlannedTensor] = {}
    for line in lines:
        if fell := _FALLBACK.search(line):
            wanted[fell["name"]] = fell["wanted"].upper()
        elif (named := TENSOR_LINE.match(line.lstrip())) and named["name"] in known:
            t = known[named["name"]]
            becomes = _BECOMES.search(line)
            after = becomes["type"].upper() if becomes else t.type_name
            planned[t.name] = PlannedTensor(t.name, t.shape, t.type_name, after)
    return Preview(
        recipe,
        tuple(replace(t, wanted=wanted.get(t.name, "")) for t in planned.values()),
        before.file_size - before.tensor_bytes,
    )
