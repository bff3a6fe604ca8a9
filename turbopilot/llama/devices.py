"""GPUs, and workers on other machines, that this build of llama.cpp can use.

`llama_supports_gpu_offload` is not sufficient: it is also True for RPC without a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.llama.library import Signature, declare, ggml

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
    """A GPU, or a worker's device, with its free memory in bytes as reported by the driver.

    Attributes:
        buffer: name of its buffers in llama.cpp's log.
        is_remote: whether it belongs to a worker (llama.cpp's RPC).
        shares_main_memory: whether its memory is main memory: an integrated GPU's, or Apple's.
        pointer: llama.cpp's address of it.
    """

    name: str
    description: str
    free: int
    buffer: str = ""
    is_remote: bool = False
    pointer: int = 0
    shares_main_memory: bool = False

    def __str__(self) -> str:
        return f"{self.name} ({self.description})"


def gpu_devices() -> tuple[Device, ...]:
    """Return the devices in llama.cpp's order: workers first, then GPUs; integrated GPUs only if there is no other GPU.

    A worker that is gone ends the process, because llama.cpp asks it for its free memory.
    Source: llama_prepare_model_devices in src/llama.cpp.
    """
    found = [d for d in map(_device, _pointers(_GPU)) if d]
    local = [d for d in found if not d.is_remote]
    if not local:
        local = [d for d in map(_device, _pointers(_INTEGRATED)) if d]
    return (*(d for d in found if d.is_remote), *local)


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


def worker_devices() -> tuple[int, ...]:
    """Return the addresses of the devices that a worker lends: its own GPUs, or else its processor."""
    local = tuple(d.pointer for d in gpu_devices() if not d.is_remote)
    return local or tuple(_pointers(_CPU))[:1]


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


def _iterate(kind: int) -> Any:
    declare(ggml, _FUNCTIONS)
    for i in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(i)
        if ggml.ggml_backend_dev_type(device) == kind:
            yield device


def _pointers(kind: int) -> list[int]:
    return list(_iterate(kind))


def _device(pointer: int) -> Device:
    free, total = _SIZE(), _SIZE()
    ggml.ggml_backend_dev_memory(pointer, ctypes.byref(free), ctypes.byref(total))
    registry = ggml.ggml_backend_reg_name(ggml.ggml_backend_dev_backend_reg(pointer))
    return Device(
        ggml.ggml_backend_dev_name(pointer).decode(),
        ggml.ggml_backend_dev_description(pointer).decode(),
        free.value,
        ggml.ggml_backend_buft_name(buffer_type(pointer)).decode(),
        registry == b"RPC",
        pointer,
        registry == _APPLE or ggml.ggml_backend_dev_type(pointer) == _INTEGRATED,
    )
