"""Placement of a model: layers, their KV cache, compute buffers and the output head, on devices or the CPU.

llama.cpp offloads the last layers first. It counts the output head as one more layer, after the last one, and gives
consecutive layers to each device, in the order of the devices. The token embedding stays in main memory.
Source: llama_model_base::load_tensors in src/llama-model.cpp; llama_kv_cache in src/llama-kv-cache.cpp.

If memory is short, layers go to the CPU first. If main memory is short too, the default context is halved. A context
that the user gave is never changed, and neither is the type of the KV cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from turbopilot.llama.device_memory import ContextNeed, ModelParts, compute_bytes
from turbopilot.llama.placement_wish import Machine, PlacementWish, SplitMode

CPU: Final = "CPU"
_STEPS: Final = 64  # shares of the devices' memory that are tried to fill them evenly


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """Part of a model on one device, or on the CPU, with predicted bytes.

    Attributes:
        layers: numbers of the layers; on the CPU, the first ones.
        free: bytes before the model was loaded.
    """

    device: str
    layers: range
    has_output: bool
    weights: int
    kv: int
    compute: int
    free: int

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return self.weights + self.kv + self.compute


@dataclass(frozen=True, slots=True)
class Placement:
    """Placement of a model.

    Attributes:
        n_gpu_layers: layers on devices, with the output head as one of them.
        counts: number of them on each device, in the order of the devices: llama.cpp's `tensor_split`.
        main_gpu: index of the only device with split mode "none".
        need: the context for which it was made.
        cpu: the part in main memory.
        shares: the part of each device, in the order of the devices.
        fits: whether every part fits into the memory that it may use.
    """

    n_gpu_layers: int
    counts: tuple[int, ...]
    main_gpu: int
    split_mode: SplitMode
    need: ContextNeed
    cpu: DeviceShare
    shares: tuple[DeviceShare, ...]
    fits: bool

    @property
    def uses_gpu(self) -> bool:
        """Whether a device has a part of the model."""
        return any(share.total for share in self.shares)


def place(
    parts: ModelParts, needs: Sequence[ContextNeed], machine: Machine, wish: PlacementWish
) -> Placement:
    """Return the placement of a model.

    Args:
        parts: sizes of the model.
        needs: acceptable contexts, the best first; one if the user gave it.
        machine: free memory.
        wish: what the user wants.

    Returns:
        The placement for the first context with which everything fits, else for the last one. With an automatic number
        of layers, no device gets more than it may; the CPU gets the rest, even if main memory is short.
    """
    assigned = [_Assignment(parts, need, machine, wish) for need in needs]
    for one in assigned:
        if (found := one.best()).fits:
            return found
    return assigned[-1].best()


@dataclass(slots=True)
class _Assignment:
    """Assignment of layers to devices for one context. A unit is a layer, or at the end the output head."""

    parts: ModelParts
    need: ContextNeed
    machine: Machine
    wish: PlacementWish
    room: list[int] = field(init=False)
    units: list[int] = field(init=False)  # bytes of weights and KV cache

    def __post_init__(self) -> None:
        self.room = self.wish.room(self.machine.devices)
        each = self.need.kv_bytes(self.parts) // max(1, len(self.parts.layers))
        self.units = [w + each for w in self.parts.layers]
        self.units.append(self.parts.output + self.parts.tied)

    def best(self) -> Placement:
        """Return the placement with the wanted number of layers, or with as many as fit."""
        most = len(self.units)
        wanted = self.wish.n_gpu_layers
        if not self.machine.devices or wanted == 0:
            return self._placement(self._zeros())
        if wanted is not None:
            n = min(wanted, most)
            return self._placement(self._counts(n) or self._shared_out(n))
        for n in range(most, 0, -1):
            if counts := self._counts(n):
                return self._placement(counts)
        return self._placement(self._zeros())

    def _zeros(self) -> tuple[int, ...]:
        return (0,) * len(self.machine.devices)

    def _counts(self, n: int) -> tuple[int, ...] | None:
        """Return how many of the last `n` units each device gets; None if they do not fit."""
        if self.wish.split_mode == "none":
            counts = self._on(self._main(), n)
            return counts if self._fits(counts) else None
        if self.wish.split_mode == "row" or self.wish.tensor_split:
            counts = self._shared_out(n)
            return counts if self._fits(counts) else None
        # Every device more costs time, so a model that fits on one is not split. Local devices are faster than workers.
        by_size = sorted(
            range(len(self.room)),
            key=lambda i: (self.machine.devices[i].is_remote, -self.room[i], i),
        )
        if n == len(self.units):
            for i in by_size:
                if self._fits(counts := self._on(i, n)):
                    return counts
        if not self._filled(n, _STEPS):
            return None
        # The smallest share of the devices' memory, so that all are filled evenly.
        low, high = 0, _STEPS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._filled(n, middle) else (middle, high)
        return self._filled(n, high)

    def _main(self) -> int:
        if self.wish.main_gpu is not None:
            return self.wish.main_gpu
        return max(range(len(self.room)), key=lambda i: (self.room[i], -i))

    def _on(self, device: int, n: int) -> tuple[int, ...]:
        return tuple(n if i == device else 0 for i in range(len(self.room)))

    def _filled(self, n: int, share: int) -> tuple[int, ...] | None:
        """Fill the devices from the last one and the last unit on, each up to `share` of its room in `_STEPS`."""
        counts, alone = [0] * len(self.room), len(self.room) < 2
        at, left = len(self.units), n
        for i in reversed(range(len(self.room))):
            room = self.room[i] * share // _STEPS
            while left and self._device_bytes(i, (at - counts[i] - 1, at), n, alone) <= room:
                counts[i] += 1
                left -= 1
            at -= counts[i]
        return None if left else tuple(counts)

    def _shared_out(self, n: int) -> tuple[int, ...]:
        """Return the last `n` units in the wanted proportions, or in those of the devices' memory.

        A unit goes to the first device whose cumulative share is above the unit's position, as in llama.cpp.
        """
        wanted = [*self.wish.tensor_split, *[0.0] * len(self.room)][: len(self.room)]
        if self.wish.split_mode == "none":
            return self._on(self._main(), n)
        if not any(wanted):
            wanted = (
                [float(room) for room in self.room] if any(self.room) else [1.0] * len(self.room)
            )
        total = sum(wanted)
        ends = [sum(wanted[: i + 1]) / total for i in range(len(wanted))]
        counts = [0] * len(wanted)
        for unit in range(n):
            last = max(i for i, share in enumerate(wanted) if share)
            counts[next((i for i, end in enumerate(ends) if end > unit / n), last)] += 1
        return tuple(counts)

    def _device_bytes(self, device: int, span: tuple[int, int], n: int, alone: bool) -> int:
        """Return the bytes on a device that has the units of a span, of `n` units on devices."""
        weights = sum(self.units[slice(*span)]) + self._pinned(device)
        return weights + self._compute(device, span, n, alone)

    def _pinned(self, device: int) -> int:
        return self.parts.pinned_to(self.machine.devices[device].name)

    def _compute(self, device: int, span: tuple[int, int], n: int, alone: bool) -> int:
        start, end = span
        if start >= end:
            return 0
        is_all = n == len(self.units)
        found = compute_bytes(
            self.parts, self.need, has_layers=start < len(self.parts.layers), has_output=end == len(self.units),
            is_pipeline=is_all and not alone,
        )  # fmt: skip
        if is_all or self.machine.devices[device].is_remote:
            return found
        # Large batches of layers on the CPU are computed on a device, which copies a matrix at a time.
        return found + 2 * self.parts.largest

    def _spans(self, counts: Sequence[int]) -> list[tuple[int, int]]:
        at, found = len(self.units) - sum(counts), []
        for n in counts:
            found.append((at, at + n))
            at += n
        return found

    def _fits(self, counts: Sequence[int]) -> bool:
        n, alone = sum(counts), sum(map(bool, counts)) < 2
        spans = enumerate(self._spans(counts))
        return all(
            self._device_bytes(i, span, n, alone) <= self.room[i] for i, span in spans if counts[i]
        )

    def _placement(self, counts: tuple[int, ...]) -> Placement:
        n, alone = sum(counts), sum(map(bool, counts)) < 2
        shares = tuple(self._share(i, s, n, alone) for i, s in enumerate(self._spans(counts)))
        cpu = self._cpu_share(n, alone)
        return Placement(
            n, counts, next((i for i, c in enumerate(counts) if c), 0), self.wish.split_mode, self.need, cpu, shares,
            self._fits(counts) and cpu.total <= self.machine.free,
        )  # fmt: skip

    def _share(self, i: int, span: tuple[int, int], n: int, alone: bool) -> DeviceShare:
        start, end = span
        n_layers = len(self.parts.layers)
        device = self.machine.devices[i]
        layers = range(min(start, n_layers), min(end, n_layers))
        has_output = start < end == len(self.units)
        weights = sum(self.parts.layers[j] for j in layers) + self._pinned(i)
        weights += (self.parts.output + self.parts.tied) * has_output
        kv = self.need.kv_bytes(self.parts) // max(1, n_layers) * len(layers)
        compute = self._compute(i, span, n, alone)
        return DeviceShare(device.name, layers, has_output, weights, kv, compute, device.free)

    def _cpu_share(self, n: int, alone: bool) -> DeviceShare:
        parts, n_layers = self.parts, len(self.parts.layers)
        has_output = n == 0
        layers = range(min(n_layers, len(self.units) - n))
        weights = sum(parts.layers[j] for j in layers) + parts.input + parts.pinned_to(CPU)
        weights += parts.output * has_output
        kv = self.need.kv_bytes(parts) // max(1, n_layers) * len(layers)
        if len(layers) == n_layers:
            kv = self.need.kv_bytes(parts)
        compute = compute_bytes(
            parts, self.need, has_layers=bool(layers), has_output=has_output,
            is_pipeline=n == len(self.units) and not alone,
        )  # fmt: skip
        return DeviceShare(CPU, layers, has_output, weights, kv, compute, self.machine.free)


def step_down(
    parts: ModelParts, placement: Placement, machine: Machine, wish: PlacementWish
) -> Placement | None:
    """Return the placement to try after memory ran short: an eighth of the layers less on devices; None at 0."""
    n = placement.n_gpu_layers
    if not n:
        return None
    fewer = replace(wish, n_gpu_layers=n - max(1, n // 8))
    return place(parts, [placement.need], machine, fewer)
