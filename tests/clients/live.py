"""Running `turbopilot serve` with the bundled model, observed through /health, /metrics and its log."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
# Long enough for a busy machine; a hang fails one test.
PATIENCE = 100.0


@dataclass(frozen=True, slots=True)
class Live:
    """Server on 127.0.0.1; `key` is "" if it needs none, and `log` has its logged lines."""

    port: int
    key: str
    log: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            c.request(method, path, None if body is None else json.dumps(body), headers)
            response = c.getresponse()
            return response.status, response.read()
        finally:
            c.close()

    def complete(self, **body: object) -> Any:
        status, data = self.ask("POST", "/v1/completions", body)
        assert status == 200, data
        return json.loads(data)

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric, summed over the labels that are not given."""
        _, data = self.ask("GET", "/metrics")
        return sum(
            s.value
            for family in text_string_to_metric_families(data.decode())
            for s in family.samples
            if s.name == f"turbopilot_{name}" and labels.items() <= s.labels.items()
        )

    def tokens(self, kind: str) -> int:
        return int(self.metric("tokens_total", kind=kind))

    def cancelled(self) -> int:
        return int(self.metric("requests_total", reason="cancelled"))

    def busy(self) -> int:
        """Return the number of running and waiting requests."""
        _, data = self.ask("GET", "/health")
        health = json.loads(data)
        return int(health["running"] + health["waiting"])


@contextmanager
def cancelling(live: Live, body: Mapping[str, Any]) -> Iterator[None]:
    """Check that all completions of a body sent in this context are cancelled before their end."""
    cancelled, generated = live.cancelled(), live.tokens("generated")
    yield
    wait_until(lambda: live.cancelled() == cancelled + body["n"])
    wait_until(lambda: live.busy() == 0)
    assert live.tokens("generated") - generated < body["n"] * body["max_tokens"]


def wait_until(happened: Callable[[], object]) -> None:
    """Poll a condition until it is true; fail after `PATIENCE` seconds."""
    until = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < until, "timed out waiting for a condition"


@contextmanager
def live_server(cache: Path, *arguments: str, key: str = "") -> Iterator[Live]:
    """Serve the bundled model on a free port; `cache` keeps the converted model."""
    keys = ("--api-key", key) if key else ()
    command = [sys.executable, "-m", "turbopilot", "serve", "--port", "0", *keys, *arguments]
    environ = {**os.environ, "TURBOPILOT_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    for name in ("MODEL", "MODEL_TYPE"):
        environ.pop(name, None)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT, env=environ
    ) as process:  # fmt: skip
        log: list[str] = []
        port = _port(process, log)
        reader = threading.Thread(target=_read, args=(process, log))
        reader.start()  # a full pipe would stop the server
        try:
            yield Live(port, key, log)
        finally:
            process.terminate()
            process.wait(PATIENCE)
            reader.join(PATIENCE)


def _port(process: subprocess.Popen[str], log: list[str]) -> int:
    assert process.stderr
    for line in process.stderr:
        log.append(line)
        if line.startswith("ready "):
            return int(line.split("http://127.0.0.1:")[1].split()[0])
    raise AssertionError("the server did not start:\n" + "".join(log))


def _read(process: subprocess.Popen[str], log: list[str]) -> None:
    assert process.stderr
    log.extend(process.stderr)
