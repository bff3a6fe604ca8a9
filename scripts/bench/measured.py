"""Time and memory of one process, for the benchmarks that convert and quantize files.

A virtual machine may return unused memory to its host within a second. The first access to each page is then slower
than the copying that the benchmark measures (the same 2.3 GB took from 3 to 8 s). Before each run, therefore, `warm`
writes a file of the output's size and deletes it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 8 << 20


@dataclass(frozen=True)
class Run:
    """Seconds and peak resident bytes of one process."""

    seconds: float
    peak: float


def warm(folder: Path, n_bytes: int) -> None:
    """Make the system touch and free the pages of a file of `n_bytes`."""
    path = folder / "warm"
    block = bytes(_BLOCK)
    with path.open("wb") as f:
        for _ in range(n_bytes // _BLOCK + 1):
            f.write(block)
    path.unlink()


def measure(*command: str, may_fail: bool = False) -> Run | None:
    """Run a command and return its time and memory; None if it failed and `may_fail` is set."""
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - began
        if not status:
            return Run(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        said.seek(0)
        words = said.read().decode(errors="replace")[-2000:]
    if not may_fail:
        raise SystemExit(f"{' '.join(command)} failed:\n{words}")
    print(f"{command[1]} failed: {words[-300:]}")
    return None


def medians(runs: Mapping[str, Sequence[Run]]) -> dict[str, Run]:
    """Print the runs of each command and return the medians."""
    found = {
        name: Run(
            statistics.median(r.seconds for r in each), statistics.median(r.peak for r in each)
        )
        for name, each in runs.items()
        if each
    }
    for name, run in found.items():
        each = " ".join(f"{r.seconds:.2f}" for r in runs[name])
        print(f"{name:24} {run.seconds:6.2f} s  ({each})  peak {run.peak / 1e6:5.0f} MB")
    return found
