"""Processor, usable cores and main memory of this machine."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_GROUPS = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")


@cache
def cpu_name() -> str:
    """Return the processor's name; "" if the operating system does not report it."""
    found = re.search(r"^model name\s*: (.*)$", _cpuinfo(), re.MULTILINE)
    return found[1].strip() if found else platform.processor()


@cache
def cpu_features() -> frozenset[str]:
    """Return the processor features that llama.cpp selects kernels by: avx2, avx512f, neon, dotprod and i8mm.

    The set is empty if the operating system does not report them, as on Windows.
    """
    words = cpu_flags(_cpuinfo())
    found = words & {"avx2", "avx512f", "i8mm"}
    if "asimd" in words:
        found |= {"neon"}
    if "asimddp" in words:
        found |= {"dotprod"}
    if platform.system() == "Darwin" and platform.machine() == "arm64":  # every Apple M has these
        found |= {"neon", "dotprod"}
    return frozenset(found)


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the processor's features in the text of Linux's /proc/cpuinfo; empty if it has none."""
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", cpuinfo, re.MULTILINE)
    return frozenset(flags[1].split()) if flags else frozenset()


def usable_cores() -> int:
    """Return the number of threads for llama.cpp: the physical cores that this process may use, at least one.

    Hyperthreads are not counted, because they share the execution units that llama.cpp needs. A quota of 1.5 cores is
    rounded up.
    """
    cores = physical_cores(allowed_processors())
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def allowed_processors() -> frozenset[int]:
    """Return the logical processors that this process may run on: all of them, or those of its affinity."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def physical_cores(processors: Collection[int]) -> int:
    """Return the number of physical cores of some logical processors; their number if the system does not report it."""
    topology = Path("/sys/devices/system/cpu")
    try:
        cores = {
            (topology / f"cpu{i}/topology/thread_siblings_list").read_text() for i in processors
        }
    except OSError:  # not Linux, or not readable in a container
        return len(processors)
    return len(cores)


def cpu_quota(proc: Path = _GROUPS, root: Path = _CGROUPS) -> float | None:
    """Return the processor time that this process's control groups allow, in cores; None if it is not limited.

    Source: cpu.max ("QUOTA PERIOD", or "max PERIOD") in Linux's Documentation/admin-guide/cgroup-v2.rst, and
    cpu.cfs_quota_us (-1 for unlimited) in Documentation/scheduler/sched-bwc.rst.
    """
    quotas = []
    for group in _groups("cpu", proc, root):
        try:
            if (group / "cpu.max").exists():
                quota, period = (group / "cpu.max").read_text("ascii").split()
            else:
                quota = (group / "cpu.cfs_quota_us").read_text("ascii")
                period = (group / "cpu.cfs_period_us").read_text("ascii")
            quotas.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
            continue
    return min((q for q in quotas if q > 0), default=None)


def installed_bytes() -> int:
    """Return the bytes of main memory of this machine."""
    return _windows_bytes() if sys.platform == "win32" else _posix_bytes()


def total_bytes() -> int:
    """Return the bytes of main memory that this process may use, within a container's limit."""
    limits = (_read_limit(path) for path in _limit_files())
    return min([installed_bytes(), *(limit for limit in limits if limit is not None)])


def free_bytes() -> int:
    """Return the bytes of main memory that this process may still take without swapping, within a container's limit.

    If the operating system does not report it, this is half of all memory.
    """
    try:
        text = _MEMINFO.read_text("ascii")
    except OSError:  # not Linux
        return total_bytes() // 2
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    free = int(found[1]) * 1024 if found else total_bytes() // 2
    for limit_file in _limit_files():
        limit = _read_limit(limit_file)
        name = {"memory.max": "memory.current"}.get(limit_file.name, "memory.usage_in_bytes")
        used = _read_limit(limit_file.with_name(name))
        if limit is not None and used is not None:
            free = min(free, max(0, limit - used))
    return free


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def _posix_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limit_files(proc: Path = _GROUPS, root: Path = _CGROUPS) -> list[Path]:
    """Return the files of the memory limits of this process's control groups."""
    names = ("memory.max", "memory.limit_in_bytes")
    return [
        group / names[group.is_relative_to(root / "memory")]
        for group in _groups("memory", proc, root)
    ]


def _groups(controller: str, proc: Path, root: Path) -> list[Path]:
    """Return the folders of this process's control groups and of their ancestors, in both versions of control groups.

    In a container, the files of its own group are at the root. Source: cgroups(7): lines of `number:controllers:path`;
    version 2 has number 0 and no controllers, version 1 a folder for each controller.
    """
    try:
        lines = proc.read_text("ascii").splitlines()
    except (OSError, ValueError):
        lines = []
    found = [root, root / controller]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folder = root
        elif controller in controllers.split(","):
            folder = root / controller
        else:
            continue
        group = folder / path.strip("/")
        while group != folder:
            found.append(group)
            group = group.parent
    return found


def _read_limit(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _windows_bytes() -> int:
    """Return MEMORYSTATUSEX.ullTotalPhys, which is at byte 8 of the 64-byte structure. Source: GlobalMemoryStatusEx."""
    status = (ctypes.c_uint64 * 8)()
    ctypes.cast(status, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(status)
    if not getattr(ctypes, "windll").kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # noqa: B009
        raise OSError("GlobalMemoryStatusEx failed")
    return int(status[1])
