"""Typed access to a GGUF's metadata, and the keys that `quantize.provenance` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from turbopilot.formats.gguf.cursor import Value

# Key of the order in which a model fills in the middle best: "psm", "spm", or absent.
FIM_ORDER_KEY: Final = "turbopilot.fim_order"

PerLayer: TypeAlias = "int | list[int] | None"
_T = TypeVar("_T", str, int, bool)

PREFIX = "turbopilot.quantize."


@dataclass(frozen=True, slots=True)
class TypedMetadata:
    """Metadata of a GGUF; a value with an unexpected type is treated as absent."""

    values: Mapping[str, Value]

    def get(self, key: str, kind: type[_T]) -> _T | None:
        """Return a value if it has exactly this type, else None."""
        value = self.values.get(key)
        return value if type(value) is kind else None

    def many(self, key: str, kind: type[_T]) -> list[_T]:
        """Return the elements of a list that have exactly this type; [] if absent."""
        value = self.values.get(key)
        return [v for v in value if type(v) is kind] if isinstance(value, list) else []

    def text(self, key: str) -> str:
        """Return a string value; "" if absent."""
        return self.get(key, str) or ""

    def number(self, key: str) -> float | None:
        """Return an integer or float value as a float; None if absent."""
        value = self.values.get(key)
        return float(value) if isinstance(value, (int, float)) and type(value) is not bool else None

    def per_layer(self, key: str) -> PerLayer:
        """Return a list of one number per layer, or a single number if all layers have the same."""
        many = self.many(key, int)
        return (many[0] if len(set(many)) == 1 else many) if many else self.get(key, int)


@dataclass(frozen=True, slots=True)
class Quantized:
    """Record of how turbopilot quantize created a file; "" and 0 if unknown."""

    turbopilot: str  # version of turbopilot
    llama_cpp: str  # version of llama-cpp-python
    source: str  # name of the source file
    source_sha256: tuple[str, ...]  # of the source file, or of all its parts
    imatrix: str  # file name of the importance matrix
    imatrix_sha256: str  # of the importance matrix's file
    memory: int  # with --fit, the memory limit for serving in bytes
    device_memory: tuple[int, ...]  # with --fit-vram, the limit for each GPU in bytes
    n_ctx: int  # with --fit or --fit-vram, the context length in tokens
    predicted_kl: str  # with --fit or --fit-vram, the predicted KL from the source, in nats


def read_quantized(metadata: Mapping[str, Value]) -> Quantized | None:
    """Return the record in a file's metadata; None if turbopilot quantize did not create the file."""
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
        device_memory=tuple(
            int(n) for n in said.text(PREFIX + "fit.device_memory").split(",") if n.isdecimal()
        ),
        n_ctx=said.get(PREFIX + "fit.n_ctx", int) or 0,
        predicted_kl=said.text(PREFIX + "fit.predicted_kl"),
    )
