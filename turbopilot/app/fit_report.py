"""Results of `turbopilot quantize --fit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quantize.fit import RoundingSensitivity
    from turbopilot.bench import Divergence, Memory, Setup

# Bytes of `serve` beside the process that is measured: Flask, waitress and its threads, a request. Measured as the
# difference of the two on one model, 35 MB.
SERVER: Final = 36_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Where the memory goes, in bytes.

    Attributes:
        total: that the process may take.
        process: Python, the server, llama.cpp's library, the vocabulary.
        kv: keys and values of the context.
        compute: what a batch is computed in, and its logits.
    """

    total: int
    process: int
    kv: int
    compute: int

    @property
    def beside(self) -> int:
        """All but the weights."""
        return self.process + self.kv + self.compute

    @property
    def room(self) -> int:
        """For the weights."""
        return self.total - self.beside


@dataclass(frozen=True, slots=True)
class FitRow:
    """The fitted file, or a plain type beside it.

    Attributes:
        name: of its type.
        tensor_bytes: its weights.
        footprint: predicted bytes of the whole process.
        predicted_kl: in nats; None where sensitivities were not measured.
        types: type → weights in it.
        memory: measured; None where it was not run.
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
        """Bytes of the whole process, as it ran; GPU memory is included."""
        if self.memory is None:
            return None
        return self.memory.needed + sum(self.memory.devices.values()) + SERVER


@dataclass(frozen=True, slots=True)
class FitReport:
    """The file that was written, and the plain types that also fit, those that lose least first.

    `seconds` is what writing it took.
    """

    path: Path
    budget: Budget
    setup: Setup
    sensitivity: RoundingSensitivity
    fitted: FitRow
    plain: tuple[FitRow, ...]
    seconds: float
