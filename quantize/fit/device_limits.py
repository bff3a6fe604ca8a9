"""Limits for a file that is served from devices: for its part on each device, and for the whole server.

Whether a file fits is decided by `turbopilot.llama.placement`, which also decides it when the file is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from turbopilot.base.errors import InvalidInput
from turbopilot.base.option_values import ALL_LAYERS
from turbopilot.formats.ggml_types import n_bytes
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.device_memory import ContextNeed, model_parts
from turbopilot.llama.placement import CPU, Placement, place
from turbopilot.llama.placement_wish import DeviceMemory, Machine, PlacementWish

UNLIMITED: Final = 1 << 60  # bytes
_STEPS: Final = 1024  # of a search for the smallest sizes
_MOST_TIMES: Final = 64  # the smallest sizes that are searched, in multiples of the given ones


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """Memory that a served file may take.

    Attributes:
        sizes: most bytes of each device, for its weights, KV cache and compute buffers. The devices need not exist.
        need: the context.
        wish: what the user wants; without a number of layers, all layers and the output head are on devices.
        total: most bytes of the whole server, in main memory and on devices; None for no limit.
        process: bytes of the server without the model.
    """

    sizes: tuple[int, ...]
    need: ContextNeed
    wish: PlacementWish = PlacementWish()  # noqa: RUF009 — frozen
    total: int | None = None
    process: int = 0

    def __post_init__(self) -> None:
        names = {name.lower() for name in (CPU, *self.names)}
        for _, device in self.wish.tensor_overrides:
            if device.lower() not in names:
                raise InvalidInput(
                    f"--override-tensor {device}: --fit-vram knows no such device",
                    hint="name the devices with --device, one for each size of --fit-vram",
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the devices: those that the user gave, else GPU0 and so on."""
        numbered = tuple(f"GPU{i}" for i in range(len(self.sizes)))
        return (*self.wish.names[: len(self.sizes)], *numbered[len(self.wish.names) :])

    def placement(self, header: GgufHeader, n_gpu_layers: int | None = None) -> Placement:
        """Return the placement of a file; `n_gpu_layers` replaces the wanted number of layers."""
        if n_gpu_layers is None:
            n_gpu_layers = self.wish.n_gpu_layers
        wish = replace(
            self.wish,
            n_gpu_layers=ALL_LAYERS if n_gpu_layers is None else n_gpu_layers,
            margin=0,
            most=(),
        )
        devices = map(DeviceMemory, self.names, self.sizes)
        parts = model_parts(header, self.wish.tensor_overrides)
        return place(parts, [self.need], Machine(tuple(devices), UNLIMITED), wish)

    def server_bytes(self, placement: Placement) -> int:
        """Return the bytes of the whole server."""
        shares = (placement.cpu, *placement.shares)
        return self.process + sum(share.total for share in shares)

    def over(self, placement: Placement) -> int:
        """Return by how many bytes the whole server exceeds its limit; 0 if it does not."""
        return 0 if self.total is None else max(0, self.server_bytes(placement) - self.total)

    def holds(self, header: GgufHeader) -> bool:
        """Return whether a file is within all limits."""
        found = self.placement(header)
        return found.fits and not self.over(found)

    def most_layers(self, header: GgufHeader) -> int:
        """Return the largest number of layers whose part fits on the devices, the output head being one of them."""
        for n in range(self.placement(header).n_gpu_layers, 0, -1):
            if self.placement(header, n).fits:
                return n
        return 0

    def least_sizes(self, header: GgufHeader) -> tuple[int, ...]:
        """Return the smallest sizes, in the same proportions, into which a file fits; () if they are very large."""

        def scaled(steps: int) -> DeviceLimits:
            return replace(self, sizes=tuple(-(-size * steps // _STEPS) for size in self.sizes))

        low, high = 0, _MOST_TIMES * _STEPS
        if not scaled(high).placement(header).fits:
            return ()
        while high - low > 1:
            middle = (low + high) // 2
            fits = scaled(middle).placement(header).fits
            low, high = (low, middle) if fits else (middle, high)
        return scaled(high).sizes


def with_types(header: GgufHeader, types: Mapping[str, str]) -> GgufHeader:
    """Return a header whose tensors have other types and sizes; `types` is by tensor name."""
    tensors = tuple(
        replace(t, type_name=kind, n_bytes=n_bytes(kind, t.n_weights))
        if (kind := types.get(t.name))
        else t
        for t in header.tensors
    )
    return replace(header, tensors=tensors)
