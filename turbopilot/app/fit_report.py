"""Results of `turbopilot quantize --fit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quantize.fit import RoundingSensitivity
    from turbopilot.bench import Divergence, Memory, Setup

# Bytes that `serve` takes beyond the measured process: Flask, waitress and its threads, a request. The difference was
# measured on one model: 35 MB.
SERVER: Final = 36_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Memory budget, in bytes.

    Attributes:
        total: limit of the process.
        process: Python, the server, llama.cpp's library, the vocabulary.
        kv: KV cache.
        compute: buffers of a batch, and its logits.
    """

    total: int
    process: int
    kv: int
    compute: int

    @property
    def beside(self) -> int:
        """Everything but the weights."""
        return self.process + self.kv + self.compute

    @property
    def room(self) -> int:
        """Room for the weights."""
        return self.total - self.beside


@dataclass(frozen=True, slots=True)
class FitRow:
    """The fitted file, or a plain type beside it.

    Attributes:
        name: quantization type.
        tensor_bytes: size of the weights.
        footprint: predicted bytes of the whole process.
        predicted_kl: in nats; None if sensitivities were not measured.
        types: type → number of weights.
        memory: measured; None if the file was not run.
        divergence: measured, from the source.
    """

    name: str
    tensor_bytes: int
    footprint: int
    predicted_kl: float | None
    types: Mapping[str, int]
    memory: Memory | None = None
    divergence: Divergence | None = None

    @property
    def measured_footprint(self) -> int | None:
        """Measured bytes of the whole process, GPU memory included."""
        if self.memory is None:
            return None
        return self.memory.needed + sum(self.memory.devices.values()) + SERVER


@dataclass(frozen=True, slots=True)
class FitReport:
    """The written file, and the plain types that also fit, least divergence first; `seconds` to write the file."""

    path: Path
    budget: Budget
    setup: Setup
    sensitivity: RoundingSensitivity
    fitted: FitRow
    plain: tuple[FitRow, ...]
    seconds: float
