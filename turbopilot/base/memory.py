"""How much memory this machine has. A leaf: imports nothing of ours."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def total_bytes() -> int:
    """Bytes of main memory, as far as this process may use them (a container's limit counts)."""
    installed = _windows() if sys.platform == "win32" else _posix()
    limit = _cgroup_limit()
    return min(installed, limit) if limit else installed


def _posix() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_limit() -> int | None:
    """What control groups allow this process, on Linux (v1 and v2); None where there is no limit."""
    limits = [limit for path in _limit_files() if (limit := _read(path)) is not None]
    return min(limits, default=None)


def _limit_files(proc: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> list[Path]:
    """Where the limits of our group and of those around it stand; a container sees its own as the root's.

    Source: cgroups(7): lines of `number:controllers:path`, where version 2 has the number 0 and no controllers.
    """
    try:
        lines = proc.read_text("ascii").splitlines()
    except (OSError, ValueError):
        lines = []
    files = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folder, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = folder / path.strip("/")
        while group != folder:
            files.append(group / name)
            group = group.parent
    return files


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):  # not there, or "max"
        return None


def _windows() -> int:
    """Source: GlobalMemoryStatusEx, MEMORYSTATUSEX.ullTotalPhys, which begins at byte 8 of 64."""
    status = (ctypes.c_uint64 * 8)()
    ctypes.cast(status, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(status)
    if not getattr(ctypes, "windll").kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # noqa: B009
        raise OSError("GlobalMemoryStatusEx failed")
    return int(status[1])
