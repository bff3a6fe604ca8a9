"""What quantizing did, read from the two files themselves. Knows nothing of llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantize.preview import Preview
from turbopilot.formats.gguf.file import GgufHeader


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """Before and after."""

    source: Path
    path: Path
    recipe: str
    bytes_before: int
    bytes_after: int
    bits_before: float
    bits_after: float
    types_before: dict[str, int]
    types_after: dict[str, int]
    fallbacks: tuple[str, ...]
    """Tensors whose rows did not fit the type's blocks, and what was used instead."""
    seconds: float


def summarise(
    before: GgufHeader, after: GgufHeader, preview: Preview, seconds: float
) -> QuantizeReport:
    """Compare two headers."""
    return QuantizeReport(
        source=before.path, path=after.path, recipe=preview.recipe,
        bytes_before=before.file_size, bytes_after=after.file_size,
        bits_before=before.bits_per_weight, bits_after=after.bits_per_weight,
        types_before=before.bytes_by_type(), types_after=after.bytes_by_type(),
        fallbacks=preview.fallbacks(), seconds=seconds,
    )  # fmt: skip
