"""Limit on the memory that a worker lends of a device.

llama.cpp's server reports what a device reports, and cannot limit it. So two functions of the device are replaced: that
which reports memory, and that which allocates buffers. Source: the structures in ggml-backend-impl.h; their layout is
checked by the number of their version.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any, Final

from turbopilot.base.errors import ServeError
from turbopilot.base.machine import free_bytes
from turbopilot.llama.devices import Device, buffer_type, is_cpu
from turbopilot.llama.library import Signature, declare, ggml

_API_VERSION: Final = 2  # GGML_BACKEND_API_VERSION
_GET_MEMORY: Final = 2  # place in ggml_backend_device_i
_ALLOC_BUFFER: Final = 1  # place in ggml_backend_buffer_type_i
_FREE_BUFFER, _BUFFER_SIZE = 0, 13  # places in ggml_backend_buffer
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_SIZES: Final = ctypes.POINTER(_SIZE)
_MEMORY_FUNCTION: Final = ctypes.CFUNCTYPE(None, _POINTER, _SIZES, _SIZES)
_ALLOC_FUNCTION: Final = ctypes.CFUNCTYPE(_POINTER, _POINTER, _SIZE)
_FREE_FUNCTION: Final = ctypes.CFUNCTYPE(None, _POINTER)
_FUNCTIONS: Final[dict[str, Signature]] = {"ggml_backend_dev_backend_reg": ([_POINTER], _POINTER)}


class LentMemory:
    """The memory of one device that may be lent. It must live as long as the device is used.

    Buffers count: weights, the KV cache, and activations. Scratch memory of a driver, and the copy of a tensor that is
    being received, do not.

    Args:
        device: llama.cpp's address of the device.
        most: most bytes to lend.

    Raises:
        ServeError: this version of llama.cpp has other structures.
    """

    def __init__(self, device: int, most: int) -> None:
        declare(ggml, _FUNCTIONS)
        registry = ggml.ggml_backend_dev_backend_reg(device)
        if ctypes.c_int.from_address(registry).value != _API_VERSION:
            raise ServeError(
                "--memory: not possible with this version of llama.cpp",
                hint="limit the memory at the server: turbopilot serve --gpu-memory",
            )
        self._device, self._most = device, most
        self._lock = threading.Lock()
        self._lent = (
            0  # bytes of buffers; only counted for the processor, whose free memory does not change
        )
        is_counted = is_cpu(device)
        slots = _slots(device, _GET_MEMORY)
        self._get_memory = _MEMORY_FUNCTION(slots[_GET_MEMORY])
        free, self._total = self._asked()
        self._free_before = min(free, most) if is_counted else free
        buffers = _slots(buffer_type(device), _ALLOC_BUFFER)
        self._alloc = _ALLOC_FUNCTION(buffers[_ALLOC_BUFFER])
        self._free: Any = None
        # llama.cpp keeps pointers to these.
        self._callbacks = (
            _MEMORY_FUNCTION(self._report), _ALLOC_FUNCTION(self._allocate), _FREE_FUNCTION(self._release),
        )  # fmt: skip
        self._is_counted = is_counted
        slots[_GET_MEMORY] = _address(self._callbacks[0])
        buffers[_ALLOC_BUFFER] = _address(self._callbacks[1])

    @property
    def left(self) -> int:
        """Bytes that may still be lent."""
        if self._is_counted:
            return max(0, self._free_before - self._lent)
        free = self._asked()[0]
        return max(0, min(free, self._most - max(0, self._free_before - free)))

    def _asked(self) -> tuple[int, int]:
        free, total = _SIZE(), _SIZE()
        self._get_memory(self._device, ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def _report(self, _device: int, free: Any, total: Any) -> None:
        free[0], total[0] = self.left, min(self._total, self._most)

    def _allocate(self, kind: int, size: int) -> int | None:
        with self._lock:
            if size > self.left:
                return None
            buffer: int | None = self._alloc(kind, size)
            if buffer and self._is_counted:
                slots = _slots(buffer, _BUFFER_SIZE)
                self._lent += slots[_BUFFER_SIZE] or 0
                self._free = _FREE_FUNCTION(slots[_FREE_BUFFER])  # the same for all buffers
                slots[_FREE_BUFFER] = _address(self._callbacks[2])
            return buffer

    def _release(self, buffer: int) -> None:
        with self._lock:
            self._lent -= _slots(buffer, _BUFFER_SIZE)[_BUFFER_SIZE] or 0
        self._free(buffer)


def limits(devices: Sequence[Device], most: int | None) -> list[LentMemory]:
    """Limit devices to `most` bytes each; without a limit, the processor to what is free of main memory now."""
    return [
        LentMemory(device.pointer, most or free_bytes())
        for device in devices
        if most or is_cpu(device.pointer)
    ]


def _slots(address: int, last: int) -> Any:
    """Return the words of a structure up to one of them, as an array that can be written."""
    return (_POINTER * (last + 1)).from_address(address)


def _address(function: Any) -> int | None:
    return ctypes.cast(function, _POINTER).value
