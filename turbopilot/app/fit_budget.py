"""Limits of `turbopilot quantize --fit` and `--fit-vram`, and the types that are chosen within them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from quantize import Preview
from quantize.fit import Allocation, DeviceFit, DeviceLimits, Fit, RoundingSensitivity
from turbopilot.app.fit_report import SERVER, Budget, FitRow
from turbopilot.base.errors import QuantizationError
from turbopilot.base.sizes import size
from turbopilot.bench import Memory, Setup
from turbopilot.llama.placement import Placement

# Bytes by which the memory of a process varies from run to run. The hint adds them, so that its size is enough.
_VARIES: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class MainMemoryFit:
    """Limit for the whole server (`--fit` alone).

    llama.cpp reports what it needs in addition to the weights; the weights get the rest.

    Attributes:
        fit: the source.
        setup: settings that the file will be served with.
        budget: the limit, and the memory of the server without the weights.
    """

    fit: Fit
    setup: Setup
    budget: Budget

    @classmethod
    def of(cls, fit: Fit, total: int, setup: Setup, beside: Memory) -> MainMemoryFit:
        """Return the limit of `total` bytes; `beside` is the memory of the server without the weights."""
        b = beside.buffers
        return cls(fit, setup, Budget(total, beside.now + SERVER, b.kv, b.compute + b.output))

    @property
    def _room(self) -> int:
        return self.budget.room or 0

    @property
    def bits(self) -> float:
        """About how many bits per weight the limit allows."""
        return self.fit.bits_in(self._room)

    def check(self) -> None:
        """Raise QuantizationError if not even the smallest types fit."""
        smallest, b, setup = self.fit.smallest, self.budget, self.setup
        if smallest <= self._room:
            return
        hints = [f"the smallest possible file needs --fit {_typed(smallest + b.beside + _VARIES)}"]
        raise QuantizationError(
            f"{self.fit.source}: does not fit into {size(b.total or 0)}: the weights need {size(smallest)} in the "
            f"smallest types, the KV cache of {setup.n_ctx:,} tokens {size(b.kv)}, the compute buffers "
            f"{size(b.compute)}, and the process {size(b.process)}",
            hint="; ".join([*hints, *_smaller_contexts(setup, b.kv, b.total or 0)]),
        )

    def allocate(self, found: RoundingSensitivity) -> Allocation | None:
        """Return the types with the smallest loss; None if nothing fits."""
        return self.fit.allocate(self._room, found)

    def holds(self, preview: Preview) -> bool:
        """Return whether a file fits."""
        return preview.tensor_bytes <= self._room

    def row(self, preview: Preview, loss: float | None) -> FitRow:
        """Return the row of a file, without measurements."""
        footprint = self.budget.beside + preview.tensor_bytes
        return FitRow(
            preview.name, preview.tensor_bytes, footprint, loss, preview.weights_by_type()
        )

    def over(self, row: FitRow) -> int:
        """Return by how many bytes the measured memory exceeds the limit."""
        return max(0, (row.measured_footprint or 0) - (self.budget.total or 0))

    def shrunk(self, row: FitRow) -> MainMemoryFit:
        """Return the limit for a file that takes as much less as this one takes too much."""
        process = self.budget.process + self.over(row)
        return replace(self, budget=replace(self.budget, process=process))


class OnDevicesFit:
    """Limits for the part on each device (`--fit-vram`), and for the whole server if `--fit` is given too.

    Args:
        fit: the source.
        limits: the limits.
        setup: settings that the file will be served with.
        given: the user's limits for the devices, if those in `limits` are smaller because a file took too much.
    """

    def __init__(
        self, fit: Fit, limits: DeviceLimits, setup: Setup, given: tuple[int, ...] = ()
    ) -> None:
        self._fit, self._setup, self.limits = fit, setup, limits
        self._devices = DeviceFit(fit, limits)
        shares = (self._smallest.cpu, *self._smallest.shares)
        self.budget = Budget(
            limits.total, limits.process, sum(s.kv for s in shares), sum(s.compute for s in shares),
            given or limits.sizes,
        )  # fmt: skip

    @property
    def bits(self) -> float:
        """About how many bits per weight the limits allow."""
        return self._devices.bits

    @property
    def _smallest(self) -> Placement:
        return self.limits.placement(self._devices.header(self._devices.smallest))

    def check(self) -> None:
        """Raise QuantizationError if not even the smallest types fit; the message has everything that is too large."""
        header, placement = self._devices.header(self._devices.smallest), self._smallest
        limits, on = self.limits, placement.shares
        faults, hints = [], []
        if not placement.fits:
            n_ctx, n = self._setup.n_ctx, placement.n_gpu_layers
            faults.append(
                f"{n} layers do not fit into {_sizes(limits.sizes)} of GPU memory: in the smallest types their weights "
                f"need {size(sum(s.weights for s in on))}, the KV cache of {n_ctx:,} tokens "
                f"{size(sum(s.kv for s in on))}, and the compute buffers {size(sum(s.compute for s in on))}"
            )
            if least := limits.least_sizes(header):
                hints.append(f"--fit-vram {','.join(map(_typed, least))} is enough")
            if fewer := limits.most_layers(header):
                hints.append(
                    f"--ngl {fewer} puts as many layers on the GPU as fit, the rest in main memory"
                )
        if limits.over(placement):
            whole = limits.server_bytes(placement)
            faults.append(
                f"the whole server does not fit into {size(limits.total or 0)}: in the smallest types it needs "
                f"{size(whole)}, of which {size(sum(s.total for s in on))} on GPUs"
            )
            hints.append(f"the smallest possible file needs --fit {_typed(whole + _VARIES)}")
        if faults:
            least_limit = min(sum(limits.sizes), limits.total or sum(limits.sizes))
            hints += _smaller_contexts(self._setup, self.budget.kv, least_limit)
            raise QuantizationError(
                f"{self._fit.source}: {'; '.join(faults)}", hint="; ".join(hints)
            )

    def allocate(self, found: RoundingSensitivity) -> Allocation | None:
        """Return the types with the smallest loss; None if nothing fits."""
        return self._devices.allocate(found)

    def placement(self, preview: Preview) -> Placement:
        """Return the predicted placement of a file."""
        return self.limits.placement(
            self._devices.header({t.name: t.after for t in preview.tensors})
        )

    def holds(self, preview: Preview) -> bool:
        """Return whether a file fits."""
        return self.limits.holds(self._devices.header({t.name: t.after for t in preview.tensors}))

    def row(self, preview: Preview, loss: float | None) -> FitRow:
        """Return the row of a file, without measurements."""
        placement = self.placement(preview)
        return FitRow(
            preview.name, preview.tensor_bytes, self.limits.server_bytes(placement), loss, preview.weights_by_type(),
            placement=placement,
        )  # fmt: skip

    def over(self, row: FitRow) -> int:
        """Return by how many bytes the measured memory exceeds a limit."""
        whole = (row.measured_footprint or 0) - self.limits.total if self.limits.total else 0
        return max(whole, self._over_devices(row), 0)

    def _over_devices(self, row: FitRow) -> int:
        """Return the largest number of bytes over a device's limit; below 0 if there are none."""
        limits, on = self.budget.devices, row.placement.shares if row.placement else ()
        used = [limit for limit, share in zip(limits, on, strict=True) if share.total]
        placed = row.memory.placed.values() if row.memory else ()
        if not placed or len(placed) != len(used):  # it was run on other devices
            return 0
        return max(n - limit for n, limit in zip(placed, used, strict=True))

    def shrunk(self, row: FitRow) -> OnDevicesFit:
        """Return the limits for a file that takes as much less as this one takes too much."""
        less = max(0, self._over_devices(row))
        sizes = tuple(max(0, n - less) for n in self.limits.sizes)
        total = self.limits.total
        whole = max(0, (row.measured_footprint or 0) - total) if total else 0
        limits = replace(self.limits, sizes=sizes, process=self.limits.process + whole)
        return OnDevicesFit(self._fit, limits, self._setup, self.budget.devices)


FitBudget: TypeAlias = "MainMemoryFit | OnDevicesFit"


def _smaller_contexts(setup: Setup, kv: int, limit: int) -> list[str]:
    """Return what a smaller KV cache would save, if it matters."""
    if kv <= limit // 20:
        return []
    hints = []
    if setup.cache_type == "F16":
        hints.append(f"--cache-type q8_0 saves {size(kv * 15 // 32)}")
    if setup.n_ctx > 512:
        hints.append(f"--ctx {setup.n_ctx // 2} saves {size(kv // 2)}")
    return hints


def _sizes(sizes: Sequence[int]) -> str:
    return " and ".join(map(size, sizes))


def _typed(n_bytes: int) -> str:
    """Return a size as the argument of an option, rounded up."""
    if n_bytes < 1e9:
        return f"{math.ceil(n_bytes / 1e6)}MB"
    return f"{math.ceil(n_bytes / 2**30 * 100) / 100:.2f}GiB"
