"""The devices of this machine, and loading of a model that is placed on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from turbopilot.base.errors import InvalidInput, MemoryShort
from turbopilot.base.machine import free_bytes
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.device_memory import ContextNeed, model_parts
from turbopilot.llama.devices import Device, choose_devices, gpu_devices
from turbopilot.llama.library import start_backend
from turbopilot.llama.model import ModelParameters
from turbopilot.llama.placement import CPU, Placement, place, step_down
from turbopilot.llama.placement_wish import DeviceMemory, Machine, PlacementWish
from turbopilot.llama.rpc import worker_devices

log = logging.getLogger("turbopilot.models")
Loaded = TypeVar("Loaded")

# Numbers of layers that loading had to step down to, for the next load of the same model in this process.
_stepped_down: Final[dict[Any, int]] = {}


def find_devices(wish: PlacementWish) -> tuple[Device, ...]:
    """Return the devices that may be used, with their free memory now.

    Raises:
        InvalidInput: there is no such device, or llama.cpp was compiled without RPC.
        DeviceLost: a worker cannot be reached, or is in use.
        ServeError: a worker has another version, or no devices.
    """
    if wish.n_gpu_layers == 0 and not wish.workers and not wish.names:
        return ()
    start_backend()
    found = choose_devices((*worker_devices(wish.workers), *gpu_devices()), wish.names)
    if wish.main_gpu is not None and wish.main_gpu >= max(1, len(found)):
        raise InvalidInput(
            f"--main-gpu {wish.main_gpu}: there are {len(found)} devices",
            hint="the first one has the number 0",
        )
    names = {d.name.lower() for d in found} | {CPU.lower()}
    for _, device in wish.tensor_overrides:
        if device.lower() not in names:
            raise InvalidInput(
                f"--override-tensor {device}: no such device",
                hint=f"devices: {', '.join([CPU, *(d.name for d in found)])}",
            )
    return found


def machine(devices: Sequence[Device]) -> Machine:
    """Return the free memory of the devices and of this machine."""
    return Machine(
        tuple(DeviceMemory(d.name, d.free, d.link is not None) for d in devices), free_bytes()
    )


def fitted(
    header: GgufHeader, need: ContextNeed, wish: PlacementWish, **parameters: Any
) -> ModelParameters:
    """Return parameters that place a model on the devices for one context; `parameters` are further ones.

    Raises:
        InvalidInput, ServeError: see `find_devices`.
    """
    devices = find_devices(wish)
    parts = model_parts(header, wish.tensor_overrides)
    placement = place(parts, [need], machine(devices), wish)
    return ModelParameters(placement, devices, tensor_overrides=wish.tensor_overrides, **parameters)


def load_stepping_down(
    header: GgufHeader,
    placement: Placement,
    free: Machine,
    wish: PlacementWish,
    load: Callable[[Placement], Loaded],
) -> Loaded:
    """Load a model; if memory is short nevertheless, try fewer layers on devices.

    The number of layers is remembered for the next load of the file in this process. A number that the user gave is
    not changed.

    Args:
        header: the model file.
        placement: the placement to try first.
        free: memory for which it was made.
        wish: what the user wants.
        load: loads the model; raises MemoryShort.

    Raises:
        MemoryShort: memory is short even without devices, or for the number of layers that the user gave.
    """
    parts = model_parts(header, wish.tensor_overrides)
    names = tuple(d.name for d in free.devices)
    key = (header.path.resolve(), header.file_size, placement.need, names)
    if (
        wish.n_gpu_layers is None
        and _stepped_down.get(key, placement.n_gpu_layers) < placement.n_gpu_layers
    ):
        known = replace(wish, n_gpu_layers=_stepped_down[key])
        placement = place(parts, [placement.need], free, known)
    while True:
        try:
            return load(placement)
        except MemoryShort as e:
            less = step_down(parts, placement, free, wish) if wish.n_gpu_layers is None else None
            if less is None:
                raise
            log.warning(
                "%s; trying %d layers on devices instead of %d", e.message, less.n_gpu_layers, placement.n_gpu_layers
            )  # fmt: skip
            placement = less
            _stepped_down[key] = less.n_gpu_layers
