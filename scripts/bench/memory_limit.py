"""Memory limit for a command, enforced by the kernel: a control group, or else `ulimit -v`.

    with memory_limit(4 << 30) as limit:
        process = subprocess.Popen(limit.wrap(command))
        ...
        print(limit.figures(process.pid))

A group is charged for its processes' own pages, the kernel's pages for them, and the pages of files that they were
the first to read. The kernel drops file pages if memory runs short, so a group may be at its limit and run well:
`oom_kills` and `refaults` (pages read from the disk again) show that memory was too small.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

_ROOT = Path("/sys/fs/cgroup")


class Limit(Protocol):
    """Memory limit that is in force; `how` names the mechanism."""

    how: str

    def wrap(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` under the limit with an unchanged process id."""

    def figures(self, pid: int) -> dict[str, int]:
        """Return the kernel's counters for the limit; empty if it has none."""

    def close(self) -> None:
        """Remove the limit after all its processes have ended."""


def _read(folder: Path, name: str) -> dict[str, int]:
    """Parse a control file with lines "key number", or with one number (its key is "")."""
    try:
        lines = [line.split() for line in (folder / name).read_text("ascii").splitlines()]
    except OSError:
        return {}
    return {" ".join(words[:-1]): int(words[-1]) for words in lines if words[-1].isdigit()}


def _figures(folder: Path) -> dict[str, int]:
    """Return a group's counters under the same names for both versions of control groups."""
    stat = _read(folder, "memory.stat")
    if (folder / "memory.max").exists():
        events = _read(folder, "memory.events")
        found = {
            "usage": _read(folder, "memory.current").get(""),
            "peak": _read(folder, "memory.peak").get(""),
            "anonymous": stat.get("anon"),
            "file": stat.get("file"),
            "reclaims": events.get("max"),
            "oom_kills": events.get("oom_kill"),
            "refaults": stat.get("workingset_refault_file"),
        }
    else:
        found = {
            "usage": _read(folder, "memory.usage_in_bytes").get(""),
            "peak": _read(folder, "memory.max_usage_in_bytes").get(""),
            "anonymous": stat.get("rss"),
            "file": stat.get("cache"),
            "reclaims": _read(folder, "memory.failcnt").get(""),
            "oom_kills": _read(folder, "memory.oom_control").get("oom_kill"),
            "refaults": stat.get("workingset_refault_file"),
        }
    return {name: value for name, value in found.items() if value is not None}


class _Group:
    """Control group made for one command, which a shell joins before it executes the command."""

    def __init__(self, parent: Path, limits: dict[str, int], how: str) -> None:
        self.how = how
        self._folder = parent / f"turbopilot-bench-{os.getpid()}"
        self._folder.mkdir()
        try:
            for name, value in limits.items():
                # The files that limit swap are missing if the kernel does not account for swap.
                if "sw" not in name or (self._folder / name).exists():
                    (self._folder / name).write_text(str(value))
        except OSError:
            self._folder.rmdir()
            raise

    def wrap(self, command: Sequence[str]) -> list[str]:
        join = 'echo $$ > "$0" && exec "$@"'
        return ["/bin/sh", "-c", join, str(self._folder / "cgroup.procs"), *command]

    def figures(self, pid: int) -> dict[str, int]:
        return _figures(self._folder)

    def close(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            left = (self._folder / "cgroup.procs").read_text("ascii").split()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                self._folder.rmdir()
            except OSError:  # the group keeps an ended process for a moment
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return


class _Scope:
    """Scope of the user's systemd, which needs no privileges."""

    how = "systemd-run --user --scope"

    def __init__(self, n_bytes: int) -> None:
        properties = ("-p", f"MemoryMax={n_bytes}", "-p", "MemorySwapMax=0")
        self._run = ["systemd-run", "--user", "--scope", "--quiet", *properties, "--"]
        tried = subprocess.run([*self._run, "true"], capture_output=True, timeout=20, check=False)
        if tried.returncode:
            raise OSError(tried.stderr.decode(errors="replace").strip())

    def wrap(self, command: Sequence[str]) -> list[str]:
        return [*self._run, *command]

    def figures(self, pid: int) -> dict[str, int]:
        try:
            line = Path(f"/proc/{pid}/cgroup").read_text("utf-8").splitlines()[-1]
        except OSError:
            return {}
        return _figures(_ROOT / line.rpartition(":")[2].lstrip("/"))

    def close(self) -> None:
        """Do nothing: systemd removes the scope with its last process."""


class _Ulimit:
    """Limit on address space. It is stricter, because mapped files, stacks and reserved memory count in full."""

    how = "ulimit -v"

    def __init__(self, n_bytes: int) -> None:
        self._kilobytes = n_bytes // 1024

    def wrap(self, command: Sequence[str]) -> list[str]:
        # glibc reserves 64 MiB of address space for each thread's heap.
        script = f'ulimit -v {self._kilobytes} && MALLOC_ARENA_MAX=2 exec "$@"'
        return ["/bin/sh", "-c", script, "sh", *command]

    def figures(self, pid: int) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


class Unlimited:
    """No limit, for comparison."""

    how = "no limit"

    def wrap(self, command: Sequence[str]) -> list[str]:
        return list(command)

    def figures(self, pid: int) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


def _own(controller: str) -> str:
    """Return the path of this process's group; the unified hierarchy's controller is ""."""
    for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path.lstrip("/")
    raise OSError(f"no control group of {controller or 'the unified hierarchy'}")


def _version_2(n_bytes: int) -> Limit:
    for parent in (_ROOT / _own(""), _ROOT):
        if "memory" in (parent / "cgroup.subtree_control").read_text("ascii").split():
            limits = {"memory.max": n_bytes, "memory.swap.max": 0}
            return _Group(parent, limits, "control group, version 2")
    raise OSError("no control group with the memory controller enabled")


def _version_1(n_bytes: int) -> Limit:
    parent = _ROOT / "memory" / _own("memory")
    limits = {
        "memory.limit_in_bytes": n_bytes,
        "memory.memsw.limit_in_bytes": n_bytes,  # memory and swap together
        "memory.swappiness": 0,
    }
    return _Group(parent, limits, "control group, version 1")


@contextlib.contextmanager
def memory_limit(n_bytes: int, *, groups_only: bool = False) -> Iterator[Limit]:
    """Set the first kind of limit that works on this machine, and remove it on exit.

    Raises:
        SystemExit: no limit can be set.
    """
    makers = [_version_2, _version_1]
    if shutil.which("systemd-run"):
        makers.append(_Scope)
    if not groups_only:
        makers.append(_Ulimit)
    reasons = []
    for make in makers:
        try:
            limit = make(n_bytes)
        except (OSError, subprocess.SubprocessError) as e:
            reasons.append(f"{make.__name__.strip('_')}: {e}")
            continue
        try:
            yield limit
        finally:
            limit.close()
        return
    raise SystemExit("memory cannot be limited on this machine:\n" + "\n".join(reasons))
