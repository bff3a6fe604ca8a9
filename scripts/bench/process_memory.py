"""What processes take of memory, by Linux's own account: theirs alone, and of files that the kernel can drop.

`ru_maxrss` counts the pages of a mapped file with the rest. A file that llama.cpp maps and reads through once stays
in it as long as nobody else wants the memory, which says nothing of what the work needs.
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
_EVERY = 0.05  # seconds between two looks


class Memory(NamedTuple):
    """Resident bytes: in all, anonymous (nobody else has them), and of files (the kernel has them too)."""

    rss: int
    anonymous: int
    file: int


@dataclass(frozen=True)
class Watched:
    """A process that has ended: seconds, and each figure's own peak."""

    seconds: float
    peak: Memory


def memory(pid: int) -> Memory:
    """Of a process now; zeros where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:
        return Memory(0, 0, 0)
    found = {name: int(kilobytes) * 1024 for name, kilobytes in _FIELD.findall(status)}
    file = found.get("RssFile", 0) + found.get("RssShmem", 0)
    return Memory(found.get("VmRSS", 0), found.get("RssAnon", 0), file)


def tree_memory(pid: int) -> Memory:
    """Of a process and all that it has started."""
    found = [memory(p) for p in tree(pid)]
    return Memory(*(sum(column) for column in zip(*found, strict=True)))


def tree(pid: int) -> list[int]:
    """The process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            stat = Path(entry.path, "stat").read_text("utf-8", "replace")
        except OSError:  # it has ended meanwhile
            continue
        # The name in parentheses may hold anything; what follows it is "state parent …".
        parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [pid]
    for p in found:
        found += parents.get(p, [])
    return found


def major_faults(pid: int) -> int:
    """Pages that the process had to wait for the disk for, so far. Source: majflt in proc_pid_stat(5)."""
    stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    return int(stat.rpartition(")")[2].split()[9])


class Sampler:
    """Looks at a process and its descendants until it is told to stop: `with Sampler(pid) as s: …; s.peak`.

    Looking costs a millisecond or two: where speed is measured, look seldom.
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
    """Run a command to its end and look at its processes' memory all the while.

    Raises:
        SystemExit: it failed; with its last words.
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
