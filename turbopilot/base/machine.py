"""Processor, usable cores, main memory and GPUs of this machine."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal, TypeAlias

Vendor: TypeAlias = Literal["NVIDIA", "AMD", "Intel", "Apple"]

# Source: the PCI ID repository, pci-ids.ucw.cz. Class 03 is a display controller.
_VENDORS: Final[dict[str, Vendor]] = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
_CGROUPS = Path("/sys/fs/cgroup")
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
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", _cpuinfo(), re.MULTILINE)
    words = set(flags[1].split()) if flags else set()
    found = words & {"avx2", "avx512f", "i8mm"}
    if "asimd" in words:
        found.add("neon")
    if "asimddp" in words:
        found.add("dotprod")
    if platform.system() == "Darwin" and platform.machine() == "arm64":  # every Apple M has these
        found |= {"neon", "dotprod"}
    return frozenset(found)


def usable_cores() -> int:
    """Return the number of physical cores that this process may use.

    Hyperthreads are not counted, because they share the execution units that llama.cpp needs.
    """
    usable = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    topology = Path("/sys/devices/system/cpu")
    try:
        cores = {(topology / f"cpu{i}/topology/thread_siblings_list").read_text() for i in usable}
    except OSError:  # not Linux, or not readable in a container
        return len(usable)
    return len(cores)


def total_bytes() -> int:
    """Return the bytes of main memory that this process may use, within a container's limit."""
    installed = _windows_bytes() if sys.platform == "win32" else _posix_bytes()
    limits = (_read_limit(path) for path in _limit_files())
    return min([installed, *(limit for limit in limits if limit is not None)])


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


@dataclass(frozen=True, slots=True)
class PresentGpu:
    """A GPU of this machine, whether or not llama.cpp can use it.

    Attributes:
        place: PCI address; "" if unknown.
        driver: name of the kernel's driver; "" if there is none.
        has_nodes: whether this process sees the device files that a compute library opens.
        is_integrated: whether it is a part of an Intel processor, which computes about as fast as the processor.
    """

    vendor: Vendor
    place: str = ""
    driver: str = ""
    has_nodes: bool = True
    is_integrated: bool = False


def present_gpus(root: Path = Path("/"), system: str = "", processor: str = "") -> list[PresentGpu]:
    """Return the GPUs of this machine. The arguments replace the file system, operating system and processor in tests.

    Linux lists the display controllers on the PCI bus; in a container these are those of the host, so `has_nodes` says
    whether they can be used. WSL has no PCI bus, but /dev/dxg.
    """
    if (system or platform.system()) == "Darwin":
        return [PresentGpu("Apple")] if (processor or platform.machine()) == "arm64" else []
    nodes = {
        "NVIDIA": any(root.glob("dev/nvidia[0-9]*")) or (root / "dev/dxg").exists(),
        "AMD": (root / "dev/kfd").exists() or any(root.glob("dev/dri/renderD*")),
        "Intel": any(root.glob("dev/dri/renderD*")),
    }
    found = []
    for device in sorted(root.glob("sys/bus/pci/devices/*")):
        vendor = _VENDORS.get(_first_line(device / "vendor"))
        if vendor and _first_line(device / "class").startswith("0x03"):
            driver = (device / "driver").resolve().name if (device / "driver").exists() else ""
            # Source: Intel's integrated GPUs are function 00:02.0 of the processor.
            integrated = vendor == "Intel" and device.name.endswith(":00:02.0")
            found.append(PresentGpu(vendor, device.name, driver, nodes[vendor], integrated))
    if not any(gpu.vendor == "NVIDIA" for gpu in found) and nodes["NVIDIA"]:
        found.append(PresentGpu("NVIDIA"))
    return found


def _first_line(path: Path) -> str:
    try:
        return path.read_text("ascii", errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def _posix_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limit_files(proc: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> list[Path]:
    """Return the limit files of this process's control group and of its ancestors.

    In a container, the files of its own group are at the root. Source: cgroups(7): lines of `number:controllers:path`;
    version 2 has number 0 and no controllers.
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
