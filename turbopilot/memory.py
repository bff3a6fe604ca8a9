"""How much memory this machine has. A leaf: imports nothing of ours."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


def total_bytes() -> int:
    """Bytes of main memory, as far as this process may use them (a container's limit counts)."""
    installed = _windows() if sys.platform == "win32" else _posix()
    limit = _cgroup_limit()
    return min(installed, limit) if limit else installed


def _posix() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_limit() -> int | None:
    """What control groups allow, on Linux (cgroup v2, then v1); None where there is no limit."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text("ascii"))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return None


def _windows() -> int:
    """Source: GlobalMemoryStatusEx, MEMORYSTATUSEX.ullTotalPhys, which begins at byte 8 of 64."""
    status = (ctypes.c_uint64 * 8)()
    ctypes.cast(status, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(status)
    if not getattr(ctypes, "windll").kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # noqa: B009
        raise OSError("GlobalMemoryStatusEx failed")
    return int(status[1])
