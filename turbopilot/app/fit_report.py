"""Results of `turbopilot quantize --fit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from turbopilot.base.rank_correlation import rank_correlation

if TYPE_CHECKING:
    from quantize.fit import RoundingSensitivity
    from turbopilot.bench import Divergence, Memory, Setup
    from turbopilot.llama.placement import Placement

# Bytes that `serve` takes in addition to the measured process: Flask, waitress and its threads, and a request.
# Measured on one model: 35 MB.
SERVER: Final = 36_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Memory budget of a server, in bytes.

    Attributes:
        total: limit for the whole server, in main memory and on devices; None for no limit.
        process: Python, the server, llama.cpp's library and the vocabulary.
        kv: KV cache.
        compute: compute buffers and logits of a batch.
        devices: limit for the part on each device; () for no limit.
    """

    total: int | None
    process: int
    kv: int
    compute: int
    devices: tuple[int, ...] = ()

    @property
    def beside(self) -> int:
        """Bytes for everything except the weights."""
        return self.process + self.kv + self.compute

    @property
    def room(self) -> int | None:
        """Bytes that remain for the weights; None for no limit."""
        return None if self.total is None else self.total - self.beside


@dataclass(frozen=True, slots=True)
class FitRow:
    """Row of the result table: the fitted file, or a standard type for comparison.

    Attributes:
        name: quantization type.
        tensor_bytes: size of the weights.
        footprint: predicted bytes of the whole server.
        predicted_kl: predicted KL divergence in nats; None if sensitivities were not measured.
        types: tensor type → number of weights.
        memory: measured memory; None if the file was not run.
        divergence: measured KL divergence from the source; None if it was not measured.
        placement: predicted parts in main memory and on devices; None without a limit for devices.
    """

    name: str
    tensor_bytes: int
    footprint: int
    predicted_kl: float | None
    types: Mapping[str, int]
    memory: Memory | None = None
    divergence: Divergence | None = None
    placement: Placement | None = None

    @property
    def measured_footprint(self) -> int | None:
        """Measured bytes of the whole server: of the process, and of llama.cpp's buffers on devices."""
        if self.memory is None:
            return None
        return self.memory.needed + (self.measured_on_devices or 0) + SERVER

    @property
    def on_devices(self) -> int | None:
        """Predicted bytes on devices."""
        return sum(share.total for share in self.placement.shares) if self.placement else None

    @property
    def measured_on_devices(self) -> int | None:
        """Measured bytes on devices; None if the file was not run on any."""
        if self.memory is None or not self.memory.placed:
            return None
        return sum(self.memory.placed.values())


@dataclass(frozen=True, slots=True)
class FitReport:
    """Result of `turbopilot quantize --fit`.

    Attributes:
        path: file that was written.
        budget: memory budget.
        setup: settings that the file was fitted and run with.
        sensitivity: measured cost of rounding.
        fitted: row of the written file.
        plain: rows of the standard types that fit too, best first.
        seconds: time to write the file.
    """

    path: Path
    budget: Budget
    setup: Setup
    sensitivity: RoundingSensitivity
    fitted: FitRow
    plain: tuple[FitRow, ...]
    seconds: float

    @property
    def rank_correlation(self) -> float | None:
        """Rank correlation of predicted and measured KL over the measured files; None for fewer than three."""
        pairs = [
            (row.predicted_kl, row.divergence.mean_kl)
            for row in (self.fitted, *self.plain)
            if row.predicted_kl is not None and row.divergence
        ]
        return rank_correlation([p for p, _ in pairs], [m for _, m in pairs])
