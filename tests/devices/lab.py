"""Workers on loopback, and a child process that loads a model on their devices."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.devices.network import connect_inside

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True, slots=True)
class Worker:
    """A running `turbopilot worker`."""

    address: str
    process: subprocess.Popen[str]
    lines: tuple[str, ...] = ()  # that it printed at the start

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
def worker(
    *arguments: str, host: str = "127.0.0.1", port: int = 0, inside: Sequence[str] = ()
) -> Iterator[Worker]:
    """Run a worker until the block ends.

    Args:
        arguments: more arguments.
        host: address to listen on.
        port: port to listen on; 0 is a free one.
        inside: words before the command, which run it elsewhere.
    """
    process = subprocess.Popen(
        [*inside, sys.executable, "-m", "turbopilot", "worker", "--host", host, "--port", str(port), "--threads", "1",
         *arguments],
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
        yield Worker(lines[-1].split()[1], process, tuple(lines))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


class Serving:
    """A running `turbopilot serve`.

    Attributes:
        lines: lines of its log so far.
    """

    def __init__(self, process: subprocess.Popen[str], namespace: str) -> None:
        self.process, self._namespace = process, namespace
        self.lines: list[str] = []
        self.port = int(self.wait_for("ready ").split()[1].rpartition(":")[2])

    def wait_for(self, text: str) -> str:
        """Return the next line of the log that contains a text."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"the server has ended without {text!r}: {''.join(self.lines)}")

    def open(self, method: str, path: str, body: object = None) -> HTTPConnection:
        """Send a request, and return the connection."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        if self._namespace:
            connection.sock = connect_inside(self._namespace, self.port)
        connection.request(method, path, json.dumps(body) if body else None)
        return connection

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Send a request; return the status and the JSON of the answer."""
        with closing(self.open(method, path, body)) as connection:
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def text(self, prompt: str, model: str = "") -> str:
        """Return a completion at temperature 0."""
        body = {"prompt": prompt, "max_tokens": 24, "temperature": 0, "model": model}
        status, answer = self.ask("POST", "/v1/completions", body)
        assert status == 200, answer
        return str(answer["choices"][0]["text"])


@contextmanager
def serving(
    model: Path | None,
    *arguments: str,
    inside: Sequence[str] = (),
    namespace: str = "",
    environment: Mapping[str, str] = ENVIRONMENT,
) -> Iterator[Serving]:
    """Run a server on a free port until the block ends; see `worker` for `inside`."""
    models = [str(model)] if model else []
    process = subprocess.Popen(
        [*inside, sys.executable, "-m", "turbopilot", "serve", *models, "--port", "0", "--threads", "1", *arguments],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        yield Serving(process, namespace)
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
