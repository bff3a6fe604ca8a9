"""Servers under test, and functions to start and stop them. Processes started elsewhere are left alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.client import HOST, BadAnswer, complete, greedy

OURS, LLAMA_SERVER, LLAMA_CPP_PYTHON = "turbopilot", "llama-server", "llama-cpp-python"
PATIENCE = 300  # seconds for a server to start
_WARM_UP = "import os\nimport sys\n\n\ndef main() -> None:\n    "


class NotStarted(Exception):
    """A server that did not start; the message holds the end of its output."""


@dataclass(frozen=True)
class Server:
    """Server under test.

    Attributes:
        name: `OURS`, `LLAMA_SERVER` or `LLAMA_CPP_PYTHON`.
        program: the binary, or the Python interpreter that has the package.
        version: the version that the program reports.
    """

    name: str
    program: str
    version: str = ""

    def command(
        self, model: Path | None, port: int, threads: int, settings: Sequence[str]
    ) -> list[str]:
        """Return the command that starts it; without a model ours serves the bundled model."""  # fmt: skip
        t = str(threads)
        given = [] if model is None else [str(model)]
        if self.name == OURS:
            ours = [self.program, "-m", "turbopilot", "serve", *given, "--port", str(port)]
            return [*ours, "--threads", t, *settings]
        if self.name == LLAMA_SERVER:
            theirs = [self.program, "-t", t, "-tb", t]
        else:
            theirs = [self.program, "-m", "llama_cpp.server", "--verbose", "false"]
            theirs += ["--n_threads", t, "--n_threads_batch", t]
        return [*theirs, "--model", *given, "--host", HOST, "--port", str(port), *settings]


def found_servers(llama_server: Path | None, llama_cpp_python: Path | None) -> list[Server]:
    """Return our server and the others that were given.

    Raises:
        SystemExit: a server's program does not run.
    """
    code = "from turbopilot import __version__; print(__version__)"
    found = [Server(OURS, sys.executable, _said([sys.executable, "-c", code]))]
    if llama_server:
        said = _said([str(llama_server), "--version"])
        lines = [line for line in said.splitlines() if line.startswith("version")]
        found.append(Server(LLAMA_SERVER, str(llama_server), " ".join(lines) or said))
    if llama_cpp_python:
        code = "import llama_cpp, llama_cpp.server.app; print(llama_cpp.__version__)"
        python = str(llama_cpp_python)
        found.append(Server(LLAMA_CPP_PYTHON, python, _said([python, "-c", code])))
    return found


def _said(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except OSError as e:
        raise SystemExit(f"{command[0]}: {e.strerror}") from None
    if done.returncode:
        raise SystemExit(f"{command[0]} does not run:\n{done.stderr[-1000:]}")
    return (done.stdout + done.stderr).strip()


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as s:
        s.bind((HOST, 0))
        port: int = s.getsockname()[1]
        return port


@dataclass(frozen=True)
class Running:
    """Server that has returned its first completion."""

    port: int
    pid: int


@contextlib.contextmanager
def started(
    server: Server,
    model: Path | None,
    threads: int,
    settings: Sequence[str] = (),
    *,
    patience: float = PATIENCE,
) -> Iterator[Running]:
    """Start a server, wait for its first completion, and stop it on exit.

    Raises:
        NotStarted: the server ended, or returned no completion within `patience` seconds.
    """
    port = free_port()
    command = server.command(model, port, threads, settings)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        try:
            asyncio.run(_until_it_answers(process, port, said, command, patience))
            yield Running(port, process.pid)
        finally:
            _end(process)


async def _until_it_answers(
    process: subprocess.Popen[bytes],
    port: int,
    said: IO[bytes],
    command: Sequence[str],
    patience: float,
) -> None:
    deadline = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, BadAnswer):
            await complete(port, greedy(_WARM_UP, 8, stream=True))
            return
        await asyncio.sleep(0.05)
    # pread: the file's offset is shared with the server, which appends to the file.
    words = os.pread(said.fileno(), 1 << 20, 0).decode(errors="replace")[-2000:]
    code = process.poll()
    how = f"returned no completion in {patience:.0f} s" if code is None else f"ended with {code}"
    raise NotStarted(f"it {how}: {' '.join(command)}\n{words}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    hard = threading.Timer(15, process.kill)
    hard.start()
    process.wait()
    hard.cancel()
