"""Options of a quantization other than its file type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quantize.recipes import TENSOR_TYPES
from turbopilot.base.errors import InvalidInput, did_you_mean


@dataclass(frozen=True, slots=True)
class Override:
    """One of `TENSOR_TYPES` for all tensors whose name the regular expression matches (searched, as ECMAScript)."""

    pattern: str
    type_name: str


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """See `turbopilot quantize --help`.

    Attributes:
        overrides: the first that matches a tensor's name decides its type.
        output_type: of `output.weight`, the head; "" is the file type's own choice.
        embedding_type: of `token_embd.weight`, which is also the head if that is tied.
        pure: write every matrix in the base type, without the mixture.
        imatrix: file of an importance matrix.
        threads: 0 is all cores.
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
        """Return the type that the overrides give a tensor, or ""."""
        return next((o.type_name for o in self.overrides if re.search(o.pattern, name)), "")


def find_tensor_type(name: str, option: str) -> str:
    """Return ggml's spelling of a tensor type given in any case; "" stays ""."""
    if not name or name.upper() in TENSOR_TYPES:
        return name.upper()
    mixture = f"{name} is a mixture of types; " if name.upper().endswith(("_S", "_M", "_L")) else ""
    raise InvalidInput(
        f"{option} {name}: no such type of a tensor",
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
            hint="a dot is written \\., e.g. 'blk\\.0\\.attn_q'",
        ) from e
    return Override(pattern, find_tensor_type(type_name, "--tensor-type"))


def check_overrides(overrides: Iterable[Override], names: Iterable[str]) -> None:
    """Refuse a pattern that matches no tensor's name, since it would silently do nothing."""
    matrices = [n for n in names if n.endswith("weight")]
    kinds = sorted({re.sub(r"^blk\.\d+\.|\.weight$", "", n) for n in matrices})
    for o in overrides:
        if not any(re.search(o.pattern, name) for name in matrices):
            raise InvalidInput(
                f"--tensor-type {o.pattern}={o.type_name.lower()}: no tensor's name matches {o.pattern!r}",
                hint=did_you_mean(o.pattern, kinds, f"the model has {', '.join(kinds)}"),
            )
