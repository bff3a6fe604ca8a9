"""How a GGUF is served: its context, its name, a line about it. Pure."""

from __future__ import annotations

from typing import Final

from serve.settings import DEFAULT_CONTEXT
from turbopilot.errors import InvalidInput
from turbopilot.gguf_file import GgufHeader

LEAST_CONTEXT: Final = 64
# Token embeddings by learned position: there is no vector for a position beyond the last.
_LEARNED_POSITIONS: Final = "position_embd.weight"


def choose_context(header: GgufHeader, wanted: int | None) -> int:
    """The context to use, in tokens.

    Raises:
        InvalidInput: the model cannot have the context that is wanted.
    """
    value = header.metadata[f"{header.architecture}.context_length"]
    trained = value if isinstance(value, int) else DEFAULT_CONTEXT
    if wanted is None:
        return min(trained, DEFAULT_CONTEXT)
    if wanted < LEAST_CONTEXT:
        raise InvalidInput(
            f"--ctx {wanted}: too small to complete anything", hint=f"give at least {LEAST_CONTEXT}"
        )
    learned = any(t.name == _LEARNED_POSITIONS for t in header.tensors)
    if learned and wanted > trained:
        raise InvalidInput(
            f"--ctx {wanted}: {header.path.name} has learned only {trained} positions",
            hint=f"give at most {trained}",
        )
    return wanted


def model_name(header: GgufHeader) -> str:
    """The name that the file gives itself, or else the file's."""
    name = header.metadata.get("general.name")
    usable = isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100
    return str(name) if usable else header.path.stem


def describe(header: GgufHeader) -> str:
    """Architecture, size and type, for a person."""
    millions = header.n_weights / 1e6
    return (
        f"{header.architecture}, {millions:,.1f} million weights, {header.main_type()}, "
        f"{header.bits_per_weight:.1f} bits per weight"
    )
