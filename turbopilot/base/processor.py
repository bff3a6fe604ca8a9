"""What this machine's processor can do, as far as it decides how fast a model runs. A leaf: imports nothing of ours."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path


@cache
def cpu_name() -> str:
    """The processor's name for a person; "" where the system does not tell."""
    found = re.search(r"^model name\s*: (.*)$", _cpuinfo(), re.MULTILINE)
    return found[1].strip() if found else platform.processor()


@cache
def cpu_features() -> frozenset[str]:
    """Of avx2, avx512f, and on ARM neon, dotprod and i8mm: those that llama.cpp's kernels are chosen by.

    Nothing where the system does not tell, as on Windows.
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
    """Processor cores, not hyperthreads: those share the units that matter to llama.cpp."""
    usable = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    topology = Path("/sys/devices/system/cpu")
    try:
        cores = {(topology / f"cpu{i}/topology/thread_siblings_list").read_text() for i in usable}
    except OSError:  # not Linux, or hidden
        return len(usable)
    return len(cores)


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:  # not Linux
        return ""
