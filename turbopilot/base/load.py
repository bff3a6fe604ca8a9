"""Load of this machine's processors and GPUs, and memory of this process.

Sources: proc_stat(5) and proc_pid_statm(5); nvidia-smi(1); Linux's Documentation/gpu/amdgpu/thermal.rst for
`gpu_busy_percent` and driver-misc.rst for `mem_info_vram_*`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from turbopilot.base.graphics import Host

_IDLE: Final = (3, 4)  # columns of /proc/stat: idle and iowait
_GUEST: Final = 8  # the first of the columns that are also part of user and nice
_NVIDIA: Final = "--query-gpu=name,utilization.gpu,memory.total,memory.free"
_AMD: Final = "0x1002"  # PCI vendor


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Time of all logical processors since the machine started, in ticks."""

    busy: int
    total: int


def cpu_times(host: Host) -> CpuTimes | None:
    """Return the time of the processors; None if the system does not report it (it is not Linux)."""
    first = host.read("proc/stat").partition("\n")[0].split()
    if first[:1] != ["cpu"] or len(first) < 6 or not all(n.isdecimal() for n in first[1:]):
        return None
    ticks = [int(n) for n in first[1 : _GUEST + 1]]
    total = sum(ticks)
    return CpuTimes(total - sum(ticks[i] for i in _IDLE), total)


def cpu_load(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """Return the load of all processors between two readings, in percent; None if it is unknown.

    >>> cpu_load(CpuTimes(100, 400), CpuTimes(150, 500))
    50.0
    """
    if before is None or after is None or after.total <= before.total:
        return None
    # A counter such as iowait may decrease (proc_stat(5)).
    return min(100.0, max(0.0, 100 * (after.busy - before.busy) / (after.total - before.total)))


def process_bytes() -> int | None:
    """Return the main memory that this process takes, with mapped files; None if the system does not report it.

    Without /proc it is the most that it has taken. Source: getrusage(2), in bytes on macOS, in KiB elsewhere.
    """
    if sys.platform == "win32":
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:  # not Linux
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """A GPU: memory in bytes, load in percent; None if the driver does not report the load."""

    name: str
    total: int
    free: int
    load: float | None = None


def gpu_loads(host: Host) -> tuple[GpuLoad, ...]:
    """Return the GPUs whose drivers report their memory: NVIDIA's with nvidia-smi, and AMD's on Linux."""
    return (*_nvidia(host), *_amd(host))


def _nvidia(host: Host) -> Iterator[GpuLoad]:
    program = host.which("nvidia-smi")
    if program is None:
        return
    for line in host.run([program, _NVIDIA, "--format=csv,noheader,nounits"]).splitlines():
        name, *numbers = (field.strip() for field in line.rsplit(",", 3))
        if len(numbers) == 3 and all(n.isdecimal() for n in numbers[1:]):
            load, total, free = numbers  # MiB
            used = float(load) if load.isdecimal() else None
            yield GpuLoad(name, int(total) << 20, int(free) << 20, used)


def _amd(host: Host) -> Iterator[GpuLoad]:
    for folder in sorted((host.root / "sys/class/drm").glob("card*/device")):
        if host.read(f"{folder}/vendor") != _AMD:
            continue
        total, used = (host.read(f"{folder}/mem_info_vram_{kind}") for kind in ("total", "used"))
        busy = host.read(f"{folder}/gpu_busy_percent")
        if total.isdecimal() and used.isdecimal():
            name = host.read(f"{folder}/product_name") or f"GPU {host.read(f'{folder}/device')[2:]}"
            load = float(busy) if busy.isdecimal() else None
            yield GpuLoad(name, int(total), max(0, int(total) - int(used)), load)
