"""The graphics processors that a build of llama.cpp can use. A leaf: imports nothing of ours, and not llama.cpp.

Counted, as `llama_supports_gpu_offload` says True of a build with RPC and no GPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Final

_GPU_TYPES: Final = {1: "GPU", 2: "iGPU"}  # enum ggml_backend_dev_type in ggml-backend.h


@dataclass(frozen=True, slots=True)
class Device:
    """A graphics processor; bytes of its memory as its driver tells them now."""

    name: str
    description: str
    free: int
    total: int

    def __str__(self) -> str:
        return f"{self.name} ({self.description})"


def gpu_devices(libggml: Any) -> tuple[Device, ...]:
    """Those of the library `llama_cpp._ggml.libggml`, which whoever imports llama_cpp hands over."""
    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    libggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    for name, restype in (
        ("type", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
    ):
        function = getattr(libggml, f"ggml_backend_dev_{name}")
        function.argtypes, function.restype = [ctypes.c_void_p], restype
    size = ctypes.POINTER(ctypes.c_size_t)
    libggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]
    libggml.ggml_backend_dev_memory.restype = None
    found = []
    for i in range(libggml.ggml_backend_dev_count()):
        device = libggml.ggml_backend_dev_get(i)
        if libggml.ggml_backend_dev_type(device) in _GPU_TYPES:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            libggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            name = libggml.ggml_backend_dev_name(device).decode()
            description = libggml.ggml_backend_dev_description(device).decode()
            found.append(Device(name, description, free.value, total.value))
    return tuple(found)
