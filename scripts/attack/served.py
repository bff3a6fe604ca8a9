"""A server under attack: its process, log and memory, and the responses to its attackers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from bench.client import HOST, Unframed, fetch
from bench.servers import free_port

from attack.processes import environment
from attack.requests import Attempt

START = 300.0  # seconds until it is ready
UNSURE = 2.0  # seconds to wait for an answer to what may be half a request


class Served:
    """Process of `turbopilot serve`.

    Attributes:
        port: on loopback.
        log: file of its stdout and stderr.
        base_memory: resident bytes when it was ready.
    """

    def __init__(self, model: Path, home: Path, number: int) -> None:
        self.port = free_port()
        self.log = home / f"server-{number}.log"
        self.base_memory = 0
        settings = (
            "--port", str(self.port), "--ctx", "512", "--parallel", "4", "--max-queue", "64", "--threads", "1",
            "--max-tokens", "32", "--grace", "10", "--prefix-cache", "8MiB",
        )  # fmt: skip
        with self.log.open("wb") as f:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "turbopilot", "serve", str(model), *settings], stdin=subprocess.DEVNULL,
                stdout=f, stderr=f, env={**os.environ, **environment(home)}, cwd=home, start_new_session=True,
            )  # fmt: skip

    async def until_ready(self) -> None:
        """Wait for the first completion.

        Raises:
            RuntimeError: it ended, or did not get ready.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + START
        while self._process.poll() is None and loop.time() < until:
            with suppress(OSError, ValueError):
                body = b'{"prompt": "def f(x):", "max_tokens": 2}'
                status, _, _ = await fetch(self.port, "/v1/completions", method="POST", body=body)
                if status == 200:
                    self.base_memory = self.memory()
                    return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"the server is not ready:\n{self.text()[-3000:]}")

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self._process.poll()

    def text(self) -> str:
        """Return its log."""
        return self.log.read_bytes().decode(errors="replace")

    def memory(self) -> int:
        """Return the resident bytes of the process and its children; 0 if it has ended."""
        total, wanted = 0, {self._process.pid}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError, IndexError, ValueError):
                    status = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(entry.name) in wanted or int(status[1]) in wanted:
                        total += int(status[21]) * os.sysconf("SC_PAGESIZE")
        return total

    def stop(self, grace: float) -> int | None:
        """Send SIGTERM; return the exit code, or None if it had to be killed after `grace` seconds."""
        if self._process.poll() is not None:
            return self._process.returncode
        self._process.send_signal(signal.SIGTERM)
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            self._process.kill()

        timer = threading.Timer(grace, kill)
        timer.start()
        self._process.wait()
        timer.cancel()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return None if killed.is_set() else self._process.returncode


async def sent(port: int, attempt: Attempt, patience: float) -> tuple[int, bytes]:
    """Send a request and return the status and body of the first response; (0, b"") if there was none.

    Raises:
        asyncio.TimeoutError: there was no response within `patience` seconds.
        ValueError: the response is not HTTP.
        OSError: the server refused the connection.
    """
    reader, writer = await asyncio.wait_for(asyncio.open_connection(HOST, port), patience)
    try:
        with suppress(ConnectionError):
            for part in attempt.parts:
                writer.write(part)
                await writer.drain()
                if attempt.pause:
                    await asyncio.sleep(attempt.pause)
        if attempt.leave is not None:
            await asyncio.sleep(attempt.leave)
            if attempt.reset:
                _reset_on_close(writer)
            return 0, b""
        return await asyncio.wait_for(_response(reader), patience if attempt.whole else UNSURE)
    except asyncio.TimeoutError:
        if attempt.whole:
            raise
        return 0, b""  # the server may wait for the rest of the request
    finally:
        writer.close()


def _reset_on_close(writer: asyncio.StreamWriter) -> None:
    plain: socket.socket = writer.get_extra_info("socket")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    answer, parts = Unframed(), list[bytes]()
    try:
        while not answer.complete:
            data = await reader.read(65536)
            if not data and not answer.status:
                return 0, b""
            parts.append(answer.feed(data))
    except ConnectionError:
        pass
    return answer.status, b"".join(parts)
