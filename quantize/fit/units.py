"""Matrices whose types are chosen individually, and groups of matrices that are measured together."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from math import prod
from typing import Final

from quantize.preview import Preview
from quantize.recipes import NEED_IMATRIX
from turbopilot.formats.ggml_types import BLOCKS, FLOATS, n_bytes

_NAME: Final = re.compile(r"^blk\.(?P<layer>\d+)\.(?P<role>\w+)\.weight$")

# Types that may be chosen for a matrix, by bits per weight. Types for models trained in them (TQ…, Q1_0, Q2_0, MXFP4)
# are left out, and so is IQ1_S, because dense models of desktop size can no longer write code in it.
CANDIDATES: Final = (
    "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K", "IQ4_XS", "Q4_K", "IQ4_NL", "Q4_0",
    "Q4_1", "Q5_K", "Q5_0", "Q5_1", "Q6_K", "Q8_0", "F16",
)  # fmt: skip
# ggml searches tables when it rounds to these types, which takes ten times as long as for other types.
SEARCHED: Final = ("IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")


@dataclass(frozen=True, slots=True)
class Unit:
    """One weight tensor. `shape` is columns, rows, and the number of matrices if there are several.

    `types` are its candidates, smallest first. `role` is attn_q, ffn_down and so on, or token_embd or output, whose
    layer is -1.
    """

    name: str
    shape: tuple[int, ...]
    role: str
    layer: int
    types: tuple[str, ...]

    @property
    def n_weights(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def n_bytes(self, type_name: str) -> int:
        """Return the size in bytes in a type."""
        return n_bytes(type_name, self.n_weights)


def units_of(preview: Preview, candidates: Sequence[str], imatrix: Set[str]) -> list[Unit]:
    """Return the matrices that llama.cpp would quantize; `imatrix` are the entry names of an importance matrix."""
    units = []
    for t in preview.tensors:
        if t.after in FLOATS or len(t.shape) < 2:
            continue
        named = _NAME.match(t.name)
        role = named["role"] if named else t.name.removesuffix(".weight")
        fitting = [
            c
            for c in candidates
            if t.shape[0] % BLOCKS[c][0] == 0 and (t.name in imatrix or c not in NEED_IMATRIX)
        ]
        fitting.sort(key=lambda c: (n_bytes(c, t.n_weights), c))
        units.append(
            Unit(t.name, t.shape, role, int(named["layer"]) if named else -1, tuple(fitting))
        )
    return units


def groups(units: Sequence[Unit], n_bands: int) -> list[list[Unit]]:
    """Group units by role and band of layers, with bands of nearly equal size.

    Each unit outside the layers is a group.
    """
    n_layers = max((u.layer for u in units), default=-1) + 1
    found: dict[tuple[str, int], list[Unit]] = {}
    for u in units:
        band = u.layer * n_bands // n_layers if u.layer >= 0 else -1
        found.setdefault((u.role, band), []).append(u)
    return list(found.values())
