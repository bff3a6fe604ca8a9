"""How glibc's malloc divides memory between threads."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

# Source: glibc's malloc.h.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
# glibc's own value to begin with; set, it stays so.
_THRESHOLD: Final = 128 * 2**10


def share_heap() -> bool:
    """Have all threads share one heap; before they are started. False if the C library is not glibc.

    By itself glibc gives threads up to 8 heaps a core, and each keeps what its largest bodies and prompts took: a
    server with a hundred threads grew by 25 MB in ten minutes of load, holding nothing (scripts/soak_serve.py).
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_M_ARENA_MAX, 1) and library.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD))
