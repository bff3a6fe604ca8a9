"""Resident memory of this process, as reported by the operating system."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_DONTNEED: Final = 4  # MADV_DONTNEED in mman-common.h


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes of main memory used by this process.

    `of_files` counts the pages of mapped files, which the system may drop. If the system reports only the peak, `now`
    is the peak and `of_files` is 0.
    """

    peak: int
    now: int
    of_files: int


def resident() -> Resident:
    """Return the memory of this process, including pages shared with other processes."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux
        return parsed_status(status.read_text("ascii", "replace"))
    peak = _windows_peak() if sys.platform == "win32" else _posix_peak()
    return Resident(peak, peak, 0)


def drop_mapped(files: Iterable[Path]) -> bool:
    """Drop this process's pages of mapped files; return whether the system supports it (only Linux does).

    A dropped page is read again when it is used. Source: madvise(2), MADV_DONTNEED; proc_pid_maps(5).
    """
    wanted = {str(path.resolve()) for path in files}
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return False
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in maps.read_text("utf-8", "surrogateescape").splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5] in wanted:
            start, _, end = parts[0].partition("-")
            madvise(int(start, 16), int(end, 16) - int(start, 16), _DONTNEED)
    return True


def parsed_status(text: str) -> Resident:
    r"""Parse /proc/PID/status, whose sizes are in units of 1024 bytes. Source: Linux, proc_pid_status(5).

    >>> parsed_status("VmHWM:\t  12 kB\nVmRSS:\t 10 kB\nRssFile:\t 3 kB\n")
    Resident(peak=12288, now=10240, of_files=3072)
    """
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def size(name: str) -> int:
        return int(lines[name].split()[0]) * 1024 if name in lines else 0

    return Resident(peak=size("VmHWM"), now=size("VmRSS"), of_files=size("RssFile"))


def _posix_peak() -> int:
    # Wrong on Linux: a child process starts with the peak of its parent. Source: getrusage(2).
    import resource

    usage: Any = resource.getrusage(resource.RUSAGE_SELF)
    return int(usage.ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _windows_peak() -> int:
    """Return the peak from GetProcessMemoryInfo.

    Source: PROCESS_MEMORY_COUNTERS has two 32-bit numbers, then sizes; the first size is the peak.
    """
    counters = (ctypes.c_size_t * 9)()
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    if not kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), ctypes.sizeof(counters)):
        raise OSError("GetProcessMemoryInfo failed")
    return int(counters[1])
