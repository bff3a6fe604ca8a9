"""Which type a single tensor is given: the types by name, and a person's `REGEX=TYPE`. Knows nothing of llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.formats.ggml_types import GGML_TYPES

# What llama.cpp computes with while it runs (Q8_1, Q8_K), whole numbers, and NVFP4, which only converters write.
_NOT_WRITTEN: Final = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64", "NVFP4"}
TENSOR_TYPES: Final = {
    name: number for number, (name, _, _) in GGML_TYPES.items() if name not in _NOT_WRITTEN
}
"""ggml's types that a tensor can be written in, and their numbers."""

FLOATS: Final = ("F32", "F16", "BF16")
BLOCKS: Final = {name: (weights, n_bytes) for name, weights, n_bytes in GGML_TYPES.values()}
"""Weights and bytes of a block."""

# llama-quant.cpp, tensor_requires_imatrix; a test compares it with what llama.cpp refuses.
NEED_IMATRIX: Final = ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S")
# Of these it demands none, though ggml aborts without one for some types (ggml.c, ggml_quantize_requires_imatrix).
_NOT_ASKED: Final = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
_ABORT: Final = ("IQ2_XXS", "IQ2_XS", "IQ1_S")


@dataclass(frozen=True, slots=True)
class Override:
    """Tensors whose name the pattern occurs in are given the type.

    Attributes:
        pattern: a regular expression, as ECMAScript's, since llama.cpp searches with it.
        type_name: of `TENSOR_TYPES`.
    """

    pattern: str
    type_name: str


def find_tensor_type(name: str, option: str) -> str:
    """A tensor type in ggml's spelling, from any case.

    Raises:
        InvalidInput: there is none; names the option, and near types.
    """
    if name.upper() in TENSOR_TYPES:
        return name.upper()
    mixture = f"{name} is a mixture of types; " if name.upper().endswith(("_S", "_M", "_L")) else ""
    raise InvalidInput(
        f"{option} {name}: no such type of a tensor",
        hint=mixture + did_you_mean(name, TENSOR_TYPES),
    )


def parse_override(text: str) -> Override:
    """`ffn_down=q6_k` → an override.

    Raises:
        InvalidInput: there is no "=", no such type, or the pattern is no regular expression.
    """
    pattern, equals, type_name = text.rpartition("=")
    if not equals or not pattern:
        raise InvalidInput(
            f"--tensor-type {text}: a pattern and a type are needed",
            hint="write --tensor-type 'ffn_down=q6_k', or 'blk\\.[0-3]\\.attn_v=q8_0'",
        )
    try:
        re.compile(pattern)
    except re.error as e:
        raise InvalidInput(
            f"--tensor-type {text}: {pattern!r} is no regular expression: {e}",
            hint="a dot is written \\., e.g. 'blk\\.0\\.attn_q'",
        ) from e
    return Override(pattern, find_tensor_type(type_name, "--tensor-type"))


def check_overrides(overrides: Iterable[Override], names: Iterable[str]) -> None:
    """Refuse a pattern that no tensor's name matches: it would silently do nothing.

    Raises:
        InvalidInput: names the pattern, and the tensors that the model has.
    """
    matrices = [n for n in names if n.endswith("weight")]
    kinds = sorted({re.sub(r"^blk\.\d+\.|\.weight$", "", n) for n in matrices})
    for o in overrides:
        if not any(re.search(o.pattern, name) for name in matrices):
            raise InvalidInput(
                f"--tensor-type {o.pattern}={o.type_name.lower()}: no tensor's name matches {o.pattern!r}",
                hint=did_you_mean(o.pattern, kinds, f"the model has {', '.join(kinds)}"),
            )


def needs_imatrix(tensor: str, type_name: str, recipe: str) -> bool:
    """Whether llama.cpp refuses, or breaks off, to write the tensor in the type without an importance matrix."""
    if tensor in _NOT_ASKED:
        return type_name in _ABORT
    return type_name in NEED_IMATRIX or (recipe == "Q2_K_S" and type_name == "Q2_K")


def n_bytes(type_name: str, n_weights: int) -> int:
    """Size of so many weights in a type; they are whole blocks."""
    weights, size = BLOCKS[type_name]
    return n_weights // weights * size
