"""GPUs that this build of llama.cpp can use.

`llama_supports_gpu_offload` is not sufficient: it is also True for RPC without a GPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final

from turbopilot.llama.library import Signature, declare, ggml

_GPU_TYPES: Final = {1, 2}  # enum ggml_backend_dev_type in ggml-backend.h: GPU and integrated GPU
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_FUNCTIONS: Final[dict[str, Signature]] = {
    "ggml_backend_dev_count": ([], _SIZE),
    "ggml_backend_dev_get": ([_SIZE], _POINTER),
    "ggml_backend_dev_type": ([_POINTER], ctypes.c_int),
    "ggml_backend_dev_name": ([_POINTER], ctypes.c_char_p),
    "ggml_backend_dev_description": ([_POINTER], ctypes.c_char_p),
    "ggml_backend_dev_memory": ([_POINTER, ctypes.POINTER(_SIZE), ctypes.POINTER(_SIZE)], None),
}


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, with its free memory in bytes as reported by the driver."""

    name: str
    description: str
    free: int

    def __str__(self) -> str:
        return f"{self.name} ({self.description})"


def gpu_devices() -> tuple[Device, ...]:
    """Return the GPUs in llama.cpp's order."""
    declare(ggml, _FUNCTIONS)
    found = []
    for i in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(i)
        if ggml.ggml_backend_dev_type(device) in _GPU_TYPES:
            free, total = _SIZE(), _SIZE()
            ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            name = ggml.ggml_backend_dev_name(device).decode()
            description = ggml.ggml_backend_dev_description(device).decode()
            found.append(Device(name, description, free.value))
    return tuple(found)
