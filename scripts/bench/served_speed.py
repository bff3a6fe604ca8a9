"""`turbopilot serve` under a limit of memory, asked over HTTP: how fast it is, and what it takes meanwhile."""

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

# Their tokens per second say the same of any text; this one has a token a word in every byte-level vocabulary.
_WORD = " a"
_PATIENCE = (
    1800  # seconds: a machine that has to read the weights again for each token is slow, not broken
)


@dataclass(frozen=True)
class Served:
    """What was measured.

    Attributes:
        how: what enforced the limit.
        load_seconds: from starting the command until it listens.
        prompt_tokens: of the prompt that was read.
        prompt_speed: tokens of it a second, from the request to the first token.
        generated: tokens generated after it.
        generation_speed: tokens a second.
        ready: memory when it listens; `peak`: each figure's own; `after`: after the last answer.
        major_faults: waits for the disk, while generating.
        group: the control group's figures; empty where there is none.
        report: what the server said of itself when it started.
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
        """For JSON."""
        memories = {k: getattr(self, k)._asdict() for k in ("ready", "peak", "after")}
        return {**asdict(self), **memories}


def forget_file(path: Path) -> None:
    """Have the kernel drop its copy: pages that others have read first would not count for the server."""
    with path.open("rb") as f:
        os.fsync(f.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_serving(
    model: Path, options: Sequence[str], limit: Limit, *, n_prompt: int, n_generate: int
) -> Served:
    """Start the server, let it read a prompt and generate, and end it.

    Raises:
        SystemExit: it did not start, or did not live through it.
    """
    forget_file(model)
    command = [sys.executable, "-m", "turbopilot", "serve", str(model), "--port", "0", *options]
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
                # All of the prompt but its last token is in the cache: each token is one step.
                generating, generated = _complete(port, prompt, n_generate)
                faults = major_faults(server.pid) - faults
            except (OSError, http.client.HTTPException, KeyError) as e:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(5)
                group = limit.figures(server.pid)
                raise SystemExit(
                    f"serve ({limit.how}) ended by {server.returncode}: {e!r} {group}\n{_words(said)}"
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
    # Read by place: the file's own place is where the server goes on writing.
    return os.pread(said.fileno(), 1 << 16, 0).decode(errors="replace")


def _wait_until_ready(server: subprocess.Popen[bytes], said: IO[str]) -> int:
    """The port it listens on."""
    while server.poll() is None:
        for line in _words(said).splitlines():
            if line.startswith("ready "):
                return int(line.split("http://127.0.0.1:")[1].split()[0])
        time.sleep(0.05)
    raise OSError("it did not start")


def _complete(port: int, prompt: str, n_tokens: int) -> tuple[float, dict[str, int]]:
    """Seconds, and the tokens that the server counted."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    body = json.dumps({"prompt": prompt, "max_tokens": n_tokens, "temperature": 0})
    began = time.monotonic()
    try:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return time.monotonic() - began, answer["usage"]
