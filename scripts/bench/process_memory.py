"""Memory of processes as Linux accounts for it: anonymous pages, and file pages that the kernel can drop.

`ru_maxrss` includes the pages of mapped files. A model file that llama.cpp maps and reads once stays resident until
the kernel needs the memory for something else, so that number does not show the memory that the process needs.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_FIELD = re.compile(r"^(VmRSS|RssAnon|RssFile|RssShmem):\s+(\d+) kB", re.MULTILINE)
_EVERY = 0.05  # seconds between samples


class Memory(NamedTuple):
    """Resident bytes: all, anonymous (private to the process), and of files (which the kernel can drop)."""

    rss: int
    anonymous: int
    file: int


@dataclass(frozen=True)
class Watched:
    """Seconds of an ended process, and the peak of each memory figure."""

    seconds: float
    peak: Memory


def memory(pid: int) -> Memory:
    """Return the memory of a process now; zeros if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:
        return Memory(0, 0, 0)
    found = {name: int(kilobytes) * 1024 for name, kilobytes in _FIELD.findall(status)}
    file = found.get("RssFile", 0) + found.get("RssShmem", 0)
    return Memory(found.get("VmRSS", 0), found.get("RssAnon", 0), file)


def tree_memory(pid: int) -> Memory:
    """Return the memory of a process and all its descendants."""
    found = [memory(p) for p in tree(pid)]
    return Memory(*(sum(column) for column in zip(*found, strict=True)))


def tree(pid: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            stat = Path(entry.path, "stat").read_text("utf-8", "replace")
        except OSError:  # the process has ended
            continue
        # The name in parentheses may contain any characters; after it follow "state parent …".
        parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [pid]
    for p in found:
        found += parents.get(p, [])
    return found


def major_faults(pid: int) -> int:
    """Return the number of page faults so far that read from the disk. Source: majflt in proc_pid_stat(5)."""
    stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    return int(stat.rpartition(")")[2].split()[9])


class Sampler:
    """Thread that samples the memory of a process and its descendants: `with Sampler(pid) as s: …; s.peak`.

    One sample takes 1 to 2 ms. Choose a long interval (`every`, in seconds) if speed is measured at the same time.
    """

    def __init__(self, pid: int, every: float = _EVERY) -> None:
        self.peak = Memory(0, 0, 0)
        self._pid, self._every = pid, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self.peak = Memory(*map(max, self.peak, tree_memory(self._pid)))

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def watch(command: Sequence[str]) -> Watched:
    """Run a command to its end and sample the memory of its processes.

    Raises:
        SystemExit: the command failed; the message holds the end of its output.
    """
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            with Sampler(child.pid) as sampler:
                child.wait()
        finally:
            child.kill()
            child.wait()
        seconds = time.monotonic() - began
        if child.returncode:
            said.seek(0)
            words = said.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"{' '.join(command)} failed:\n{words}")
    return Watched(seconds, sampler.peak)
