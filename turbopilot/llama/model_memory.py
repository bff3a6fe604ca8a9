"""Memory that models may take on this machine, and the best type of a model that fits there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from turbopilot.base.backends import supports_gpus
from turbopilot.base.counts import count
from turbopilot.base.sizes import size
from turbopilot.llama.device_memory import ContextNeed, predicted_parts
from turbopilot.llama.footprint import PROCESS, memory_budget
from turbopilot.llama.geometry import Geometry
from turbopilot.llama.placement import place
from turbopilot.llama.placement_wish import DeviceMemory, Machine, PlacementWish


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Memory that models may take.

    Attributes:
        main: bytes of main memory, with the server's process.
        devices: devices and their free memory.
        wish: what the user wants to put there.
        share: what part of the machine's main memory `main` is, in words; "" if it was given.
    """

    main: int
    devices: tuple[DeviceMemory, ...] = ()
    wish: PlacementWish = PlacementWish()  # noqa: RUF009 — frozen
    share: str = ""

    @property
    def total(self) -> int:
        """Bytes of main memory and of all devices."""
        return self.main + sum(self.wish.room(self.devices))

    def best_type(self, geometry: Geometry, parameters: int, n_ctx: int) -> str:
        """Return the most accurate type in which a model fits; "" if it fits in none.

        F16 is not considered: Q8_0 has almost no loss and is twice as fast if memory bandwidth is the limit.
        """
        machine = Machine(self.devices, self.main - PROCESS)
        for name in ("Q8_0", "Q4_K_M", "Q4_0"):
            parts = predicted_parts(geometry, parameters, name)
            if place(parts, [ContextNeed(n_ctx)], machine, self.wish).fits:
                return name
        return ""

    def __str__(self) -> str:
        """Return the memory as text, such as "17.6 GB of main memory and 2 GPUs with 24.0 GB each"."""
        named = ("GPU", [d.free for d in self.devices if not d.is_remote])
        remote = ("remote device", [d.free for d in self.devices if d.is_remote])
        parts = [f"{size(self.main)} of main memory" + (f" ({self.share})" if self.share else "")]
        parts += [
            f"{count(len(free), kind)} with {_sizes(free)}"
            for kind, free in (named, remote)
            if free
        ]
        return " and ".join(parts)


def usable_memory(wish: PlacementWish = PlacementWish()) -> ModelMemory:  # noqa: B008 — frozen
    """Return the memory that models may take by default: a share of main memory, and the devices.

    llama.cpp is loaded only if it was compiled for a GPU, or if workers are to be used. A GPU that shares the main
    memory adds none.

    Raises:
        InvalidInput, ServeError: see `fitting.find_devices`.
    """
    devices: tuple[DeviceMemory, ...] = ()
    if wish.workers or supports_gpus():
        from turbopilot.llama.fitting import find_devices

        found = (d for d in find_devices(wish) if not d.shares_main_memory)
        devices = tuple(DeviceMemory(d.name, d.free, d.link is not None) for d in found)
    return ModelMemory(memory_budget(), devices, wish, "three quarters of this machine's")


def _sizes(sizes: Sequence[int]) -> str:
    if len(set(sizes)) == 1:
        return size(sizes[0]) + (" each" if len(sizes) > 1 else "")
    return " and ".join(map(size, sizes))
