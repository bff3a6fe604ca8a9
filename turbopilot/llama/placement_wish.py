"""Free memory of a machine's devices, and what the user wants to put there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

DEFAULT_MARGIN: Final = 512 * 2**20
"""Bytes of each device that are left free: for the driver, the desktop, and the error of the prediction."""

DEFAULT_WORKER_PORT: Final = 50052
"""Port of a worker, that of llama.cpp's rpc-server."""
EXPERTS_ON_CPU: Final = r"ffn_.*_exps=CPU"
"""Value of --override-tensor that keeps the experts of a mixture in main memory."""

SplitMode: TypeAlias = Literal["layer", "none", "row"]


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A device and its free memory in bytes; `is_remote` if it belongs to a worker."""

    name: str
    free: int
    is_remote: bool = False


@dataclass(frozen=True, slots=True)
class PlacementWish:
    """Wishes of the user.

    Attributes:
        n_gpu_layers: layers on devices, with the output head as one of them; None means as many as fit.
        margin: bytes to leave free on each device.
        most: most bytes to use of each device; the last one applies to all further devices. Empty means what is free.
        main_gpu: index of the only device with split mode "none"; None means the one with the most free memory.
        tensor_split: share of the layers for each device; empty means by free memory.
        names: devices to use, in this order; empty means all, "none" means none.
        workers: HOST:PORT of workers whose devices are used too.
        tensor_overrides: (pattern, device) pairs of tensors that go elsewhere.
    """

    n_gpu_layers: int | None = None
    margin: int = DEFAULT_MARGIN
    most: tuple[int, ...] = ()
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    split_mode: SplitMode = "layer"
    names: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    tensor_overrides: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PlacementWish:
        """Return the wish of a child's job, in which tuples are lists."""
        tuples = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        pairs = tuple((pattern, device) for pattern, device in values["tensor_overrides"])
        return cls(**{**values, **tuples, "tensor_overrides": pairs})

    def room(self, devices: Sequence[DeviceMemory]) -> list[int]:
        """Return the bytes that may be used of each device."""
        found = []
        for i, device in enumerate(devices):
            most = self.most[min(i, len(self.most) - 1)] if self.most else device.free
            found.append(max(0, min(device.free - self.margin, most)))
        return found


@dataclass(frozen=True, slots=True)
class Machine:
    """Free memory in bytes: of devices in llama.cpp's order, and main memory."""

    devices: tuple[DeviceMemory, ...] = ()
    free: int = 0
