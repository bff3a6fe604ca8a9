"""Quantization options other than the file type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quantize.recipes import TENSOR_TYPES
from turbopilot.base.errors import InvalidInput, did_you_mean


@dataclass(frozen=True, slots=True)
class Override:
    """Tensor type for all tensors whose names match a regular expression.

    `pattern` is an ECMAScript expression that may match any part of the name. `type_name` is one of `TENSOR_TYPES`.
    """

    pattern: str
    type_name: str


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """Options of a quantization; see `turbopilot quantize --help`.

    Attributes:
        overrides: the first override that matches a tensor's name decides its type.
        output_type: type of the output head, `output.weight`; "" leaves the choice to the file type.
        embedding_type: type of `token_embd.weight`, which is also the output head of a tied model.
        pure: write every matrix in the base type, without a mixture.
        imatrix: importance matrix file.
        threads: 0 uses all cores.
        digests: folder that caches the source's SHA-256.
    """

    overrides: tuple[Override, ...] = ()
    output_type: str = ""
    embedding_type: str = ""
    pure: bool = False
    keep_split: bool = False
    allow_requantize: bool = False
    imatrix: Path | None = None
    threads: int = 0
    metadata: Mapping[str, str | int] = field(default_factory=dict)
    digests: Path | None = None

    def override_of(self, name: str) -> str:
        """Return the type that the overrides give a tensor; "" if none matches."""
        return next((o.type_name for o in self.overrides if re.search(o.pattern, name)), "")


def find_tensor_type(name: str, option: str) -> str:
    """Return ggml's spelling of a tensor type in any letter case; "" for ""."""
    if not name or name.upper() in TENSOR_TYPES:
        return name.upper()
    mixture = f"{name} is a mixture of types; " if name.upper().endswith(("_S", "_M", "_L")) else ""
    raise InvalidInput(
        f"{option} {name}: no such tensor type",
        hint=mixture + did_you_mean(name, TENSOR_TYPES),
    )


def parse_override(text: str) -> Override:
    """Parse `ffn_down=q6_k`."""
    pattern, _, type_name = text.rpartition("=")
    if not pattern or not type_name:
        raise InvalidInput(
            f"--tensor-type {text}: a pattern and a type are needed",
            hint="write --tensor-type 'ffn_down=q6_k', or 'blk\\.[0-3]\\.attn_v=q8_0'",
        )
    try:
        re.compile(pattern)
    except re.error as e:
        raise InvalidInput(
            f"--tensor-type {text}: {pattern!r} is not a regular expression: {e}",
            hint="write a dot as \\., for example 'blk\\.0\\.attn_q'",
        ) from e
    return Override(pattern, find_tensor_type(type_name, "--tensor-type"))


def check_overrides(overrides: Iterable[Override], names: Iterable[str]) -> None:
    """Raise InvalidInput if a pattern matches no tensor name, because it would silently have no effect."""
    matrices = [n for n in names if n.endswith("weight")]
    kinds = sorted({re.sub(r"^blk\.\d+\.|\.weight$", "", n) for n in matrices})
    for o in overrides:
        if not any(re.search(o.pattern, name) for name in matrices):
            raise InvalidInput(
                f"--tensor-type {o.pattern}={o.type_name.lower()}: no tensor name matches {o.pattern!r}",
                hint=did_you_mean(o.pattern, kinds, f"the model has {', '.join(kinds)}"),
            )
