"""`turbopilot complete`: output in a pipe and on a terminal, exit codes, signals, and a model file without a server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from serve.security_options import SecurityOptions
from tests.cli.test_terminal import on_terminal
from tests.client.test_completion import chunk, streaming
from tests.clients.live import Live
from tests.support.engines import EngineExchange, FakeEngine
from tests.support.fakes import FakeDecoder, script
from tests.support.serving import running, wait
from turbopilot.cli import app
from turbopilot.client.completion import ROUTE

ROOT = Path(__file__).parents[2]
SOURCE = (
    "def add(a, b):\n    return a + b\n\n\ndef multiply(a, b):\n    \n\n\nprint(multiply(2, 3))\n"
)


def completed(*arguments: str, stdin: str | None = None, **environment: str) -> Result:
    return CliRunner().invoke(app, ["complete", *arguments], input=stdin, env=environment)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """File whose end a script completes."""
    path = tmp_path / "a.py"
    path.write_text("first\nwhat?", "utf-8")
    return str(path)


@contextmanager
def served(text: str, **more: Any) -> Iterator[str]:
    """Yield the URL of a server that completes "?" with a text."""
    with running(FakeDecoder(script(text)), **more) as server:
        yield f"http://127.0.0.1:{server.port}"


@contextmanager
def hostile(answer: Callable[[EngineExchange], None]) -> Iterator[str]:
    engine = FakeEngine({ROUTE: answer})
    try:
        yield engine.url
    finally:
        engine.die()


def test_completion_is_printed_exactly(file: str) -> None:
    with served("  é\r\n\tx\n") as url:
        done = completed(file, "--line", "2", "--url", url)
    assert (done.exit_code, done.stdout_bytes, done.stderr) == (0, "  é\r\n\tx\n".encode(), "")


def test_stdin_is_completed_at_the_cursor() -> None:
    with running(FakeDecoder(script("yes"))) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        place = ("--line", "1", "--column", "6", "--filename", "b.py")
        done = completed("-", *place, "--url", url, stdin="what?\n")
        assert server.runner.seen[0].file == "b.py"
    assert done.exit_code == 0


def test_several_completions_are_separated(file: str) -> None:
    with served("a\nb") as url:
        place = (file, "--line", "2", "--url", url, "-n", "2", "--temperature", "0")
        assert completed(*place).stdout == "a\nb\n\na\nb"
        assert completed(*place, "--null").stdout == "a\nb\0a\nb\0"
    with served("a\n") as url:
        assert completed(file, "--line", "2", "--url", url, "-n", "2").stdout == "a\n\na\n"
        assert completed(file, "--line", "2", "--url", url, "-0").stdout == "a\n\0"


def test_json_has_texts_reasons_and_counts(file: str) -> None:
    with served("abc") as url:
        done = completed(
            file, "--line", "2", "--url", url, "-n", "2", "--max-tokens", "2", "--json"
        )
    found = json.loads(done.stdout)
    assert found["completions"] == 2 * [{"text": "ab", "finish_reason": "length"}]
    assert found["usage"]["completion_tokens"] == 4
    assert found["timings"]["predicted_n"] == 4
    assert (found["model"], found["truncated"]) == ("fake", False)


def test_key_comes_from_the_variable(file: str) -> None:
    with served("yes", security=SecurityOptions(api_keys=("sk-1",))) as url:
        place = (file, "--line", "2", "--url", url)
        assert completed(*place, TURBOPILOT_API_KEY="sk-1").stdout == "yes"
        assert completed(*place, "--api-key", "sk-1").stdout == "yes"
        refused = completed(*place, TURBOPILOT_API_KEY="sk-2")
    assert refused.exit_code == 8
    assert "invalid API key" in refused.stderr
    assert "TURBOPILOT_API_KEY" in refused.stderr


def test_missing_server_is_an_error_that_names_the_ways_out(file: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    done = completed(file, "--line", "2", "--url", url)
    assert (done.exit_code, done.stdout) == (8, "")
    for words in (url, "turbopilot serve", "--url", "--model-file"):
        assert words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--line", "3"), "--line 3: the last line is 2"),
        (("--line", "1", "--column", "9"), "--column 9: line 1 has 5 characters"),
        (("--line", "0"), "--line 0: must be greater than or equal to 1"),
        ((), "--line is missing"),
        (("--line", "1", "--url", "ftp://x"), "--url ftp://x: is not an http or https URL"),
        (("--line", "1", "-f", "demo", "--url", "http://x"), "--model-file cannot be combined with --url"),
        (("--line", "1", "-f", "demo", "--model", "x"), "--model-file cannot be combined with --model"),
        (("--line", "1", "-f", "missing.gguf"), "missing.gguf: no such file"),
        (("--line", "1", "-f", "demo", "-n", "999"), "n must be at most 128"),
    ],
)  # fmt: skip
def test_usage_errors_have_exit_code_2(file: str, arguments: tuple[str, ...], message: str) -> None:
    done = completed(file, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())
    assert "hint:" in done.stderr


def test_text_before_an_error_is_printed(file: str) -> None:
    with hostile(streaming(chunk("abc"), "{broken")) as url:
        done = completed(file, "--line", "1", "--url", url)
    assert (done.exit_code, done.stdout) == (8, "abc")
    assert "not a JSON object" in done.stderr


def test_terminal_codes_of_a_server_stay_in_a_pipe_and_are_escaped_in_errors(file: str) -> None:
    codes = "\x1b]0;x\x07\x1b[2J\u202e\x00"
    with hostile(streaming(chunk(codes, "stop"))) as url:
        assert completed(file, "--line", "1", "--url", url).stdout == codes
    with hostile(lambda exchange: exchange.reply({"error": {"message": codes}}, 500)) as url:
        done = completed(file, "--line", "1", "--url", url)
    assert r"\x1b]0;x\x07\x1b[2J\u202e\x00" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_terminal_codes_are_escaped_on_a_terminal(file: str) -> None:
    pieces = (chunk("a[bold]\t"), chunk("\x1b[2J\r\x00é\n"), chunk("z", "stop"))
    with hostile(streaming(*pieces)) as url:
        shown = on_terminal(80, "complete", file, "--line", "1", "--url", url)
    assert shown.expandtabs() == "a[bold] \\x1b[2J\\r\\x00é\nz\n"


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-m", "turbopilot", "complete", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as started:  # fmt: skip
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupt_cancels_the_request(file: str) -> None:
    gate = threading.Semaphore(0)
    with running(FakeDecoder(gate=gate)) as server:
        with process(file, "--line", "2", "--url", f"http://127.0.0.1:{server.port}") as started:
            wait(server.runner.submitted)
            started.send_signal(signal.SIGINT)
            out, err = started.communicate(timeout=100)
        wait(server.runner.cancelled)
    assert (started.returncode, out, err.splitlines()) == (130, b"", [b"error: interrupted"])


def test_closed_pipe_ends_the_program_quietly_and_cancels_the_request(file: str) -> None:
    gone = threading.Semaphore(0)
    go_on = threading.Semaphore(0)

    def answer(exchange: EngineExchange) -> None:
        exchange.begin()
        exchange.event(chunk("abc"))
        wait(go_on)
        exchange.event(chunk("def"))
        if exchange.is_gone():
            gone.release()

    with hostile(answer) as url, process(file, "--line", "2", "--url", url) as started:
        assert started.stdout
        assert started.stderr
        assert started.stdout.read(3) == b"abc"  # printed before the completion ends
        started.stdout.close()
        go_on.release()
        assert started.stderr.read() == b""
        assert started.wait(100) == 1
        wait(gone)


def test_model_file_needs_no_server(demo_q4_0: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(SOURCE, "utf-8")
    place = (
        str(path),
        "--line",
        "6",
        "-f",
        str(demo_q4_0),
        "--max-tokens",
        "8",
        "--temperature",
        "0",
    )
    done = completed(*place)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.strip()
    found = json.loads(completed(*place, "--json").stdout)
    assert [c["text"] for c in found["completions"]] == [done.stdout]
    assert 1 <= found["usage"]["completion_tokens"] <= 8


def test_model_file_and_server_complete_alike(demo_gguf: Path, live: Live, tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(SOURCE, "utf-8")
    place = (str(path), "--line", "6", "--max-tokens", "24", "--temperature", "0")
    here = completed(*place, "--model-file", str(demo_gguf))
    there = completed(*place, "--url", live.url)
    assert here.exit_code == there.exit_code == 0
    assert here.stdout == there.stdout != ""


def test_other_file_than_a_model_is_an_error(file: str) -> None:
    done = completed(file, "--line", "1", "--model-file", file)
    assert (done.exit_code, done.stdout) == (2, "")
    assert file in done.stderr
