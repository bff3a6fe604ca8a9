"""Devices that llama.cpp can use: of this machine, and of workers on other machines.

`llama_supports_gpu_offload` is not sufficient: it is also True for RPC without a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.llama.library import Signature, declare, ggml
from turbopilot.llama.worker_link import WorkerLink

_CPU, _GPU, _INTEGRATED = 0, 1, 2  # enum ggml_backend_dev_type in ggml-backend.h
_APPLE: Final = b"MTL"  # GGML_METAL_NAME in ggml-metal.cpp
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_FUNCTIONS: Final[dict[str, Signature]] = {
    "ggml_backend_dev_count": ([], _SIZE),
    "ggml_backend_dev_get": ([_SIZE], _POINTER),
    "ggml_backend_dev_type": ([_POINTER], ctypes.c_int),
    "ggml_backend_dev_name": ([_POINTER], ctypes.c_char_p),
    "ggml_backend_dev_description": ([_POINTER], ctypes.c_char_p),
    "ggml_backend_dev_memory": ([_POINTER, ctypes.POINTER(_SIZE), ctypes.POINTER(_SIZE)], None),
    "ggml_backend_dev_buffer_type": ([_POINTER], _POINTER),
    "ggml_backend_buft_name": ([_POINTER], ctypes.c_char_p),
    "ggml_backend_dev_backend_reg": ([_POINTER], _POINTER),
    "ggml_backend_reg_name": ([_POINTER], ctypes.c_char_p),
    "ggml_backend_reg_count": ([], _SIZE),
    "ggml_backend_reg_get": ([_SIZE], _POINTER),
}


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, a worker's device, or the processor, with its free memory in bytes as reported by the driver.

    Attributes:
        buffer: name of its buffers in llama.cpp's log.
        log_name: name of it in llama.cpp's log. That of a worker's device changes when the worker returns.
        link: link to its worker; None for a device of this machine.
        shares_main_memory: whether its memory is main memory: an integrated GPU's, or Apple's.
        pointer: llama.cpp's address of it.
    """

    name: str
    description: str
    free: int
    buffer: str = ""
    log_name: str = ""
    link: WorkerLink | None = None
    pointer: int = 0
    shares_main_memory: bool = False

    def __str__(self) -> str:
        return f"{self.name} ({self.description})"


def gpu_devices() -> tuple[Device, ...]:
    """Return the GPUs of this machine in llama.cpp's order; integrated ones only if there is no other.

    Source: llama_prepare_model_devices in src/llama.cpp.
    """
    return tuple(map(device_at, _iterate(_GPU))) or tuple(map(device_at, _iterate(_INTEGRATED)))


def check_workers(devices: Iterable[Device]) -> None:
    """Raise DeviceLost if the worker of one of the devices is lost."""
    for device in devices:
        if device.link:
            device.link.check()


def choose_devices(found: Sequence[Device], names: Sequence[str]) -> tuple[Device, ...]:
    """Return the devices with these names, in this order; all if there are no names, and none for "none".

    Raises:
        InvalidInput: there is no such device.
    """
    if not names:
        return tuple(found)
    if [n.lower() for n in names] == ["none"]:
        return ()
    by_name = {d.name.lower(): d for d in found}
    for name in names:
        if name.lower() not in by_name:
            known = ", ".join(map(str, found)) or "none that llama.cpp can use"
            raise InvalidInput(
                f"--device {name}: no such device",
                hint=did_you_mean(name, [d.name for d in found], f"devices: {known}"),
            )
    return tuple(dict.fromkeys(by_name[name.lower()] for name in names))


def lendable_devices(names: Sequence[str] = ()) -> tuple[Device, ...]:
    """Return the devices that a worker lends: those with these names, or its GPUs, or else its processor.

    Raises:
        InvalidInput: there is no such device.
    """
    gpus = gpu_devices()
    cpu = device_at(next(_iterate(_CPU)))
    return choose_devices((*gpus, cpu), names) if names else gpus or (cpu,)


def is_cpu(device: int) -> bool:
    """Return whether the device at an address is the processor."""
    declare(ggml, _FUNCTIONS)
    return bool(ggml.ggml_backend_dev_type(device) == _CPU)


def cpu_buffer() -> int:
    """Return the address of the buffer type of main memory."""
    return buffer_type(next(_iterate(_CPU)))


def buffer_type(device: int) -> int:
    """Return the address of a device's buffer type."""
    declare(ggml, _FUNCTIONS)
    return int(ggml.ggml_backend_dev_buffer_type(device))


def backends() -> tuple[str, ...]:
    """Return the names of the backends in this build of llama.cpp, such as "CPU", "CUDA" and "RPC"."""
    declare(ggml, _FUNCTIONS)
    found = map(ggml.ggml_backend_reg_get, range(ggml.ggml_backend_reg_count()))
    return tuple(ggml.ggml_backend_reg_name(registry).decode() for registry in found)


def device_at(pointer: int) -> Device:
    """Return the device at an address of llama.cpp."""
    declare(ggml, _FUNCTIONS)
    free, total = _SIZE(), _SIZE()
    ggml.ggml_backend_dev_memory(pointer, ctypes.byref(free), ctypes.byref(total))
    name = ggml.ggml_backend_dev_name(pointer).decode()
    registry = ggml.ggml_backend_reg_name(ggml.ggml_backend_dev_backend_reg(pointer))
    kind = ggml.ggml_backend_dev_type(pointer)
    return Device(
        name,
        ggml.ggml_backend_dev_description(pointer).decode(),
        free.value,
        ggml.ggml_backend_buft_name(buffer_type(pointer)).decode(),
        log_name=name,
        pointer=pointer,
        shares_main_memory=registry == _APPLE or kind == _INTEGRATED,
    )


def _iterate(kind: int) -> Iterator[int]:
    declare(ggml, _FUNCTIONS)
    for i in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(i)
        if ggml.ggml_backend_dev_type(device) == kind:
            yield device
