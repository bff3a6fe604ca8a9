"""What a quantized file says of its making, as `quantize.provenance` wrote it. A leaf: imports only leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from turbopilot.formats.gguf.cursor import Value

PREFIX = "turbopilot.quantize."


@dataclass(frozen=True, slots=True)
class Quantized:
    """How a file of turbopilot quantize was made; "" and 0 where it does not say.

    Args:
        turbopilot: its version.
        llama_cpp: version of llama-cpp-python.
        source: file name of what it was made of.
        source_sha256: of that, and of its further parts.
        imatrix: file name of the importance matrix.
        imatrix_sha256: its digest.
        memory: bytes that serving was to take at most, with --fit.
        n_ctx: tokens of context that it was to have then.
        predicted_kl: nats from the source, as predicted then.
    """

    turbopilot: str
    llama_cpp: str
    source: str
    source_sha256: tuple[str, ...]
    imatrix: str
    imatrix_sha256: str
    memory: int
    n_ctx: int
    predicted_kl: str


def read_quantized(metadata: Mapping[str, Value]) -> Quantized | None:
    """Of a file's metadata; None where it was not made by turbopilot quantize."""

    def text(key: str) -> str:
        value = metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(key: str) -> int:
        value = metadata.get(key)
        return value if type(value) is int else 0

    if not (version := text(PREFIX + "version")):
        return None
    parts = (key for key in metadata if key.startswith(PREFIX + "source.sha256"))
    digests = [text(key) for key in sorted(parts, key=lambda key: (len(key), key))]  # .2 before .10
    return Quantized(
        turbopilot=version,
        llama_cpp=text(PREFIX + "llama_cpp"),
        source=text(PREFIX + "source.file"),
        source_sha256=tuple(digests),
        imatrix=text("quantize.imatrix.file"),
        imatrix_sha256=text(PREFIX + "imatrix.sha256"),
        memory=number(PREFIX + "fit.memory"),
        n_ctx=number(PREFIX + "fit.n_ctx"),
        predicted_kl=text(PREFIX + "fit.predicted_kl"),
    )
