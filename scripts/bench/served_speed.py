"""Speed and memory of `turbopilot serve` under a memory limit, measured over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from bench.memory_limit import Limit
from bench.process_memory import Memory, Sampler, major_faults, memory

# Tokens per second do not depend on the text; this word is one token in every byte-level vocabulary.
_WORD = " a"
_PATIENCE = (
    1800  # seconds: a machine that reads the weights from disk for each token is slow, not broken
)


@dataclass(frozen=True)
class Served:
    """Speed and memory of one server.

    Attributes:
        how: the mechanism that enforced the limit.
        load_seconds: seconds from the start of the command until the server listens.
        prompt_tokens: number of tokens of the prompt.
        prompt_speed: prompt tokens per second, from the request to the first token.
        generated: number of generated tokens.
        generation_speed: generated tokens per second.
        ready: memory when the server starts to listen.
        peak: largest value of each memory figure.
        after: memory after the last response.
        major_faults: page faults that read from the disk while the server generated.
        group: counters of the control group; empty if there is none.
        report: lines about model, context and memory that the server printed at its start.
    """

    how: str
    load_seconds: float
    prompt_tokens: int
    prompt_speed: float
    generated: int
    generation_speed: float
    ready: Memory
    peak: Memory
    after: Memory
    major_faults: int
    group: dict[str, int]
    report: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """Return the measurement as a value for JSON."""
        memories = {k: getattr(self, k)._asdict() for k in ("ready", "peak", "after")}
        return {**asdict(self), **memories}


def forget_file(path: Path) -> None:
    """Drop a file from the page cache: pages first read by another process would not count for the server."""
    with path.open("rb") as f:
        os.fsync(f.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_serving(
    model: Path, options: Sequence[str], limit: Limit, *, n_prompt: int, n_generate: int
) -> Served:
    """Start the server, measure the prefill of a prompt and the generation after it, and stop the server.

    Raises:
        SystemExit: the server did not start, or it ended during the measurement.
    """
    forget_file(model)
    # The same number of tokens from every model: those with random weights repeat themselves.
    whole = ["--no-heal", "--no-end-loops"]
    command = [
        sys.executable,
        "-m",
        "turbopilot",
        "serve",
        str(model),
        "--port",
        "0",
        *whole,
        *options,
    ]
    with tempfile.TemporaryFile("w+") as said, _started(limit.wrap(command), said) as server:
        began = time.monotonic()
        with Sampler(server.pid, every=0.5) as sampler:
            try:
                port = _wait_until_ready(server, said)
                load_seconds = time.monotonic() - began
                ready = memory(server.pid)
                prompt = "def" + _WORD * (n_prompt - 1)
                seconds, usage = _complete(port, prompt, 1)
                faults = major_faults(server.pid)
                # All tokens of the prompt but the last are in the prefix cache, so each generated token is one step.
                generating, generated = _complete(port, prompt, n_generate)
                faults = major_faults(server.pid) - faults
            except (OSError, http.client.HTTPException, KeyError) as e:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(5)
                group = limit.figures(server.pid)
                raise SystemExit(
                    f"serve ({limit.how}) ended with {server.returncode}: {e!r} {group}\n{_words(said)}"
                ) from e
            after, group = memory(server.pid), limit.figures(server.pid)
        report = tuple(line for line in _words(said).splitlines() if line[:9].strip() in _REPORTED)
    return Served(
        how=limit.how,
        load_seconds=load_seconds,
        prompt_tokens=usage["prompt_tokens"],
        prompt_speed=usage["prompt_tokens"] / seconds,
        generated=generated["completion_tokens"],
        generation_speed=generated["completion_tokens"] / generating,
        ready=ready,
        peak=sampler.peak,
        after=after,
        major_faults=faults,
        group=group,
        report=report,
    )


_REPORTED = {"model", "context", "KV cache", "GPU"}


@contextlib.contextmanager
def _started(command: Sequence[str], said: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=said, stderr=said, env=environ)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        hard = threading.Timer(20, process.kill)
        hard.start()
        process.wait()
        hard.cancel()


def _words(said: IO[str]) -> str:
    # pread: the file's offset is shared with the server, which appends to the file.
    return os.pread(said.fileno(), 1 << 16, 0).decode(errors="replace")


def _wait_until_ready(server: subprocess.Popen[bytes], said: IO[str]) -> int:
    """Return the port on which the server listens."""
    while server.poll() is None:
        for line in _words(said).splitlines():
            if line.startswith("ready "):
                return int(line.split("http://127.0.0.1:")[1].split()[0])
        time.sleep(0.05)
    raise OSError("the server did not start")


def _complete(port: int, prompt: str, n_tokens: int) -> tuple[float, dict[str, int]]:
    """Request a completion; return its seconds and the server's usage counts."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    body = json.dumps({"prompt": prompt, "max_tokens": n_tokens, "temperature": 0})
    began = time.monotonic()
    try:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return time.monotonic() - began, answer["usage"]
