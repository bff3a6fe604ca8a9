"""How a quantized file was made, as `quantize.provenance` wrote it into its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from turbopilot.formats.gguf.cursor import Value
from turbopilot.formats.gguf.metadata import TypedMetadata

PREFIX = "turbopilot.quantize."


@dataclass(frozen=True, slots=True)
class Quantized:
    """How turbopilot quantize made a file; "" and 0 if unknown."""

    turbopilot: str  # its version
    llama_cpp: str  # version of llama-cpp-python
    source: str  # name of the source file
    source_sha256: tuple[str, ...]  # of the source, and of its further parts
    imatrix: str  # name of the importance matrix's file
    imatrix_sha256: str  # its digest
    memory: int  # with --fit, the bytes that serving may take
    n_ctx: int  # with --fit, the tokens of context
    predicted_kl: str  # with --fit, the predicted KL from the source, in nats


def read_quantized(metadata: Mapping[str, Value]) -> Quantized | None:
    """Read a file's metadata; None if turbopilot quantize did not make it."""
    said = TypedMetadata(metadata)
    if not (version := said.text(PREFIX + "version")):
        return None
    parts = (key for key in metadata if key.startswith(PREFIX + "source.sha256"))
    in_order = sorted(parts, key=lambda key: (len(key), key))  # .2 before .10
    return Quantized(
        turbopilot=version,
        llama_cpp=said.text(PREFIX + "llama_cpp"),
        source=said.text(PREFIX + "source.file"),
        source_sha256=tuple(said.text(key) for key in in_order),
        imatrix=said.text("quantize.imatrix.file"),
        imatrix_sha256=said.text(PREFIX + "imatrix.sha256"),
        memory=said.get(PREFIX + "fit.memory", int) or 0,
        n_ctx=said.get(PREFIX + "fit.n_ctx", int) or 0,
        predicted_kl=said.text(PREFIX + "fit.predicted_kl"),
    )
