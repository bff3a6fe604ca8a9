"""Commands of TurboPilot in child processes with limits: forked from a warm process, or cold."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from attack.tally import ROOT

MODULES: Final = (
    "converters", "quantize", "quantize.imatrix", "gguf", "serve.http.server", "serve.models.loading", "serve.llama",
    "turbopilot.app.inspection", "turbopilot.app.resolve", "turbopilot.app.verification", "turbopilot.render.inspect",
)  # fmt: skip
"""Imported once by a warm process."""
TORCH_MODULES: Final = ("torch", "transformers", "turbopilot.verify.torch_model")
START: Final = 300.0  # seconds for the imports


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one command.

    Attributes:
        cpu: seconds of CPU time; the kernel ends the process at them.
        wall: seconds; the process is killed at them.
        memory: bytes of resident memory above those of the start; more is a violation.
        address_space: bytes of address space above those of the start.
        file_size: bytes of a written file.
    """

    cpu: int = 20
    wall: float = 120.0
    memory: int = 1 << 30
    address_space: int = 6 << 30
    file_size: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Ended:
    """Result of a process: its exit code (minus the signal), stdout and stderr together, and what it used."""

    code: int
    output: str
    cpu: float = 0.0
    memory: int = 0
    late: bool = False


def environment(home: Path) -> dict[str, str]:
    """Return the variables for a command: its caches are in `home`, and nothing is downloaded."""
    return {
        "TURBOPILOT_CACHE": str(home / "cache"), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_XET": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "scripts"))), "PYTHONFAULTHANDLER": "", "COLUMNS": "100",
        "TMPDIR": str(home),
    }  # fmt: skip


class ForkServer:
    """Warm process that runs one command at a time; for one thread."""

    def __init__(self, home: Path, modules: Sequence[str] = MODULES) -> None:
        self._home = home
        command = [sys.executable, "-m", "attack.fork_server", *modules]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env={**os.environ, **environment(home)}, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        self._buffer = b""
        self._pid = 0
        self._output = home / f"output-{self._process.pid}.txt"
        self._start_memory: int = self._hear(START)["ready"]

    def begin(
        self, arguments: Sequence[str], folder: Path, limits: Limits, **variables: str
    ) -> int:
        """Start a command; return its process id, which is also its process group."""
        self._began, self._limits = time.monotonic(), limits
        job = {
            "arguments": list(arguments), "folder": str(folder), "output": str(self._output),
            "environment": variables, "cpu": limits.cpu, "file_size": limits.file_size,
            "address_space": limits.address_space, "start_memory": self._start_memory,
        }  # fmt: skip
        self._output.unlink(missing_ok=True)
        self._to.write(json.dumps(job).encode() + b"\n")
        self._pid = self._hear(START)["pid"]
        return self._pid

    def output(self) -> str:
        """Return what the command has written so far, at most a megabyte."""
        with suppress(FileNotFoundError), self._output.open("rb") as f:
            return f.read(1 << 20).decode(errors="replace")
        return ""

    def signal(self, number: int) -> None:
        """Send a signal to the running command."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def ended(self, seconds: float) -> bool:
        """Wait at most `seconds` for the end of the command."""
        return b"\n" in self._buffer or bool(select.select([self._from], [], [], seconds)[0])

    def finish(self) -> Ended:
        """Wait for the command; kill it at the limit of wall time."""
        late = not self.ended(max(0.0, self._began + self._limits.wall - time.monotonic()))
        if late:
            self._kill()
        said = self._hear(START)
        self._pid = 0
        return Ended(said["code"], self.output(), said["cpu"], said["memory"], late)

    def _kill(self) -> None:
        self.signal(signal.SIGKILL)  # it may have no group of its own yet
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """End the warm process, and a command that still runs."""
        if self._pid:
            self._kill()
        self._to.close()
        self._process.wait()
        self._from.close()

    def _hear(self, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if not select.select([self._from], [], [], max(0.0, until - time.monotonic()))[0]:
                raise RuntimeError("the warm process does not answer")
            data = os.read(self._from.fileno(), 65536)
            if not data:
                raise RuntimeError(f"the warm process ended with code {self._process.wait()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


class ForkServers:
    """A warm process for each thread that asks for one."""

    def __init__(self, home: Path, modules: Sequence[str] = MODULES) -> None:
        self._home, self._modules = home, modules
        self._mine = threading.local()
        self._all: list[ForkServer] = []
        self._lock = threading.Lock()

    @property
    def mine(self) -> ForkServer:
        """The warm process of the calling thread."""
        if not hasattr(self._mine, "server"):
            self._mine.server = ForkServer(self._home, self._modules)
            with self._lock:
                self._all.append(self._mine.server)
        server: ForkServer = self._mine.server
        return server

    def close(self) -> None:
        """End all of them."""
        for server in self._all:
            server.close()


class ColdProcess:
    """A command in a new interpreter, so that signals can meet its imports too."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, home: Path, output: Path, **variables: str
    ) -> None:
        self._output = output
        with output.open("wb") as f:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "turbopilot", *arguments], stdin=subprocess.DEVNULL, stdout=f, stderr=f,
                cwd=folder, env={**os.environ, **environment(home), **variables}, start_new_session=True,
            )  # fmt: skip

    def signal(self, number: int) -> None:
        """Send a signal if it still runs."""
        self._process.send_signal(number)

    def ended(self, seconds: float) -> bool:
        """Wait at most `seconds` for its end."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def finish(self, wall: float) -> Ended:
        """Wait for its end; kill it after `wall` seconds."""
        late = not self.ended(wall)
        if late:
            self._process.kill()
        code = self._process.wait()
        text = self._output.read_bytes()[: 1 << 20].decode(errors="replace")
        return Ended(code, text, late=late)

    def orphans(self, seconds: float) -> list[str]:
        """Return the processes that it left behind and that still run after `seconds`, and kill them."""
        until = time.monotonic() + seconds
        while (left := _members(self._process.pid)) and time.monotonic() < until:
            time.sleep(0.02)
        if left:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        return left


def _members(group: int) -> list[str]:
    """Return the command lines of a process group's running members, without zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(pgrp) == group and state not in "ZX":
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found.append(words.decode(errors="replace").strip())
    return found
