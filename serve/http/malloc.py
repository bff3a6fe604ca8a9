"""Settings of glibc's malloc for a server with many threads."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

# Source: glibc's malloc.h.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
# glibc's initial value. Setting it turns off the dynamic adjustment of the threshold.
_THRESHOLD: Final = 128 * 2**10


def share_heap() -> bool:
    """Make all threads share one heap. Call this before threads start. Return False if the C library is not glibc.

    By default, glibc creates up to 8 heaps per core, and each keeps the memory of its largest request bodies and
    prompts. A server with a hundred threads grew by 25 MB in ten minutes of load (scripts/soak_serve.py).
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_M_ARENA_MAX, 1) and library.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD))
