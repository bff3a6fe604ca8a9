"""How many processor cores this process may use. A leaf: imports nothing of ours."""

from __future__ import annotations

import os
from pathlib import Path


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
