"""`turbopilot top`: once in a pipe, as JSON, and drawn on a terminal until q or a signal."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.clients.live import PATIENCE
from tests.support.engines import EngineExchange, FakeEngine, always
from tests.support.server_status import sample, server_status
from tests.support.serving import wait
from turbopilot.cli import app
from turbopilot.client.server_status import ROUTE, STREAM_ROUTE

ROOT = Path(__file__).parents[2]
on_posix = pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_FORMER_SCREEN = "\x1b[?1049l"  # xterm's code that leaves the alternate screen


def shown(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["top", *arguments], env=environment)


class StatusServer(FakeEngine):
    """Server whose stream has one event, and lasts until the client leaves; `left` counts those that left."""

    def __init__(self) -> None:
        self.left = threading.Semaphore(0)
        super().__init__({ROUTE: always(server_status()), STREAM_ROUTE: self._stream})

    def _stream(self, exchange: EngineExchange) -> None:
        exchange.begin()
        exchange.event(server_status(version="3.0.1", samples=[sample(60)]))
        if exchange.is_gone():
            self.left.release()


@pytest.fixture
def server() -> Iterator[StatusServer]:
    started = StatusServer()
    yield started
    started.die()


def test_status_is_printed_once_in_a_pipe(server: StatusServer) -> None:
    done = shown("--url", server.url)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"TurboPilot 3.0.0 at {server.address.name}, up 1 min"
    assert max(map(len, lines)) <= 80
    assert "qwen2.5-coder-1.5b" in done.stdout
    assert "waited for a free slot" in done.stdout
    assert "\x1b" not in done.stdout
    assert [e.path for e in server.seen] == [ROUTE]


def test_json_is_the_servers_answer(server: StatusServer) -> None:
    assert json.loads(shown("--url", server.url, "--json").stdout) == server_status()


def test_key_is_sent(server: StatusServer) -> None:
    shown("--url", server.url, TURBOPILOT_API_KEY="sk-1")
    assert server.seen[0].headers["Authorization"] == "Bearer sk-1"


def test_missing_server_is_an_error_with_a_hint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    done = shown("--url", url)
    assert (done.exit_code, done.stdout) == (8, "")
    assert f"{url}: no server answers" in done.stderr
    assert "turbopilot serve" in done.stderr


def test_missing_key_is_an_error_with_a_hint(server: StatusServer) -> None:
    server.routes[ROUTE] = always({"error": {"message": "this server requires an API key"}}, 401)
    done = shown("--url", server.url)
    assert done.exit_code == 8
    assert "requires an API key" in done.stderr
    assert "--api-key" in done.stderr


def test_other_server_is_an_error_with_a_hint(server: StatusServer) -> None:
    server.routes[ROUTE] = always(b"<html>\x1b[2J")
    done = shown("--url", server.url)
    assert done.exit_code == 8
    assert "not the status of a server" in done.stderr
    assert "--url" in done.stderr


class Terminal:
    """`turbopilot top` in a pseudo-terminal; `output` is what it has written."""

    def __init__(self, url: str) -> None:
        import pty

        self.ours, self.theirs = pty.openpty()
        self.output = ""
        self.resize(80)
        kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "turbopilot", "top", "--url", url],
            stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, cwd=ROOT,
            env={**kept, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def resize(self, width: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))

    def echoes(self) -> bool:
        """Return whether the terminal shows what is typed."""
        import termios

        return bool(termios.tcgetattr(self.theirs)[3] & termios.ECHO)

    def keys(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def until(self, pattern: str) -> None:
        """Read output until it matches a pattern, without what was read before and without terminal codes."""
        self.output = ""
        self._read_until(lambda: re.search(pattern, _CODES.sub("", self.output)))

    def _read_until(self, happened: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not happened():
            assert select.select([self.ours], [], [], end - time.monotonic())[0], self.output
            self.output += os.read(self.ours, 65536).decode(errors="replace")

    def ends(self) -> int:
        """Read output until the terminal shows its former screen; return the program's exit code."""
        self._read_until(lambda: _FORMER_SCREEN in self.output)
        return self.process.wait(PATIENCE)


@contextmanager
def terminal(url: str) -> Iterator[Terminal]:
    opened = Terminal(url)
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()
        os.close(opened.ours)
        os.close(opened.theirs)


@on_posix
def test_terminal_shows_the_stream_until_q(server: StatusServer) -> None:
    with terminal(server.url) as screen:
        screen.until(r"TurboPilot 3\.0\.1 at ")
        assert not screen.echoes()
        screen.keys("xq")
        assert screen.ends() == 0
        assert screen.echoes()
    wait(server.left)


@on_posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_restores_the_terminal(server: StatusServer, number: signal.Signals) -> None:
    with terminal(server.url) as screen:
        screen.until(r"TurboPilot 3\.0\.1 at ")
        screen.process.send_signal(number)
        assert screen.ends() == 0
        assert screen.echoes()
        assert "Traceback" not in screen.output


@on_posix
def test_screen_follows_the_size_of_the_terminal(server: StatusServer) -> None:
    with terminal(server.url) as screen:
        screen.until(r"TurboPilot 3\.0\.1 at http://[\d.:]+, up 1 min")
        screen.resize(40)
        screen.until(r"TurboPilot 3\.0\.1 at…")


@on_posix
def test_server_that_is_gone_and_back_is_shown(server: StatusServer) -> None:
    with terminal(server.url) as screen:
        screen.until(r"TurboPilot 3\.0\.1 at ")
        server.routes[ROUTE] = always({"error": {"message": "shutting down\x1b[2J"}}, 503)
        server.asked(STREAM_ROUTE)[-1].break_off()
        screen.until(r"gone since [\d:]+, trying again: /status: shutting down\\x1b\[2J")
        server.routes[ROUTE] = always(server_status(version="3.0.2"))
        screen.until(r"TurboPilot 3\.0\.[12] at [^g]*CPU")
