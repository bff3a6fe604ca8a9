"""Workers on loopback, and a child process that loads a model on their devices."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True, slots=True)
class Worker:
    """A running `turbopilot worker`."""

    address: str
    process: subprocess.Popen[str]

    def memory(self, field: str = "VmRSS") -> int:
        """Return a number of bytes from /proc/PID/status."""
        text = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
        assert found
        return int(found[1]) * 1024

    def stop(self) -> None:
        """Stop the worker without ending it, so that its clients wait."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def worker(*arguments: str) -> Iterator[Worker]:
    """Run a worker on a free port until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "turbopilot", "worker", "--port", "0", "--threads", "1", *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("ready"):
                break
        assert lines, "the worker has ended"
        assert lines[-1].startswith("ready"), "".join(lines)
        yield Worker(lines[-1].split()[1], process)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


class Loader:
    """Child process that loads models; see `tests.devices.child`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def load(self, path: Path, *, keeps: bool = False, **options: Any) -> Mapping[str, Any]:
        """Load a model, compute, and return what the child found; it stays loaded if `keeps`.

        `options` are fields of DeviceOptions, and "model": fields of ModelOptions.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"path": str(path), "keeps": keeps, **options}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the child has ended"
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def loader() -> Iterator[Loader]:
    """Run the child until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.devices.child"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        yield Loader(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()
