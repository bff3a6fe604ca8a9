"""A front before engines that run here: another TurboPilot, llama-server and llama-cpp-python's server.

The last two are skipped if they are not installed: TURBOPILOT_LLAMA_SERVER is the path of llama-server, and
TURBOPILOT_LLAMA_CPP_PYTHON that of a Python with `llama_cpp.server` and its packages.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from serve.http.app import create_app
from serve.http.server import HttpServer, bind
from serve.models import ModelPool
from serve.models.upstream_loading import make_upstream_pool
from serve.settings import Defaults, ModelOptions, ServerOptions
from serve.upstream.address import EngineAddress
from serve.upstream_options import UpstreamOptions
from tests.clients.exchange import Got, Sent
from tests.clients.readers import reader_of
from tests.serve.test_editors import CAPTURED, NOT_SERVED
from tests.support.serving import ask, serve_process, wait_until_ready

# What would differ in two runs of the same server: random choices, and cached text at other positions.
EXACT = ("--temperature", "0", "--no-reuse", "--no-ahead", "--threads", "1", "--ctx", "1024")
COMPLETED = [s for s in CAPTURED if s.body is not None and s.path not in NOT_SERVED]


@contextmanager
def front(model: Path, url: str) -> Iterator[tuple[int, ModelPool]]:
    """Run a front in this process; yield its port and its models."""
    upstream = UpstreamOptions((EngineAddress.parse(url),))
    options = ServerOptions(model, model=ModelOptions(ctx=1024), upstream=upstream)
    pool, _ = make_upstream_pool(options, lambda _: None)
    with pool.use(""):
        pass
    app = create_app(pool, Defaults(temperature=0.0))
    server = HttpServer(app, bind("127.0.0.1", 0), threads=8)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.port, pool
    finally:
        pool.request_stop()
        server.stop()
        thread.join()
        pool.close()


@pytest.fixture(scope="module")
def turbopilot(demo_gguf: Path) -> Iterator[int]:
    """Port of a server that computes."""
    with serve_process(str(demo_gguf), *EXACT) as process:
        yield wait_until_ready(process)[1]


@contextmanager
def engine_process(
    command: list[str], line: str, env: dict[str, str] | None = None
) -> Iterator[str]:
    """Run an engine; yield its URL, which is in the log line that matches."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            assert process.stderr
            said = ""
            for text in process.stderr:
                said += text
                if found := re.search(line, text):
                    threading.Thread(target=process.stderr.read, daemon=True).start()
                    yield f"{found[1]}/v1"
                    return
            raise AssertionError(f"the engine did not start: {said}")
        finally:
            process.kill()


@cache
def llama_server() -> str:
    return os.environ.get("TURBOPILOT_LLAMA_SERVER") or shutil.which("llama-server") or ""


@cache
def llama_cpp_python() -> str:
    if found := os.environ.get("TURBOPILOT_LLAMA_CPP_PYTHON"):
        return found
    needed = ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings")
    return sys.executable if all(map(find_spec, needed)) else ""


def greedy(value: Any) -> Any:
    """Return a request's body with temperature 0."""
    if isinstance(value, dict):
        return {k: 0 if k == "temperature" else greedy(v) for k, v in value.items()}
    return [greedy(v) for v in value] if isinstance(value, list) else value


def texts(port: int, sent: Sent) -> list[str]:
    """Send a recorded request at temperature 0, and read the answer as its client does."""
    headers = {k: v for k, v in sent.headers.items() if k.lower() not in ("host", "content-length")}
    status, got, data = ask(port, sent.method, sent.path, greedy(sent.body), headers)
    return reader_of(sent.client)(sent, Got(status, {k.lower(): v for k, v in got.items()}, data))


def differences(ours: int, theirs: int, requests: list[Sent]) -> dict[int, tuple[Any, Any]]:
    """Return the completions of the requests for which two servers differ, by their index."""
    pairs = {i: (texts(ours, s), texts(theirs, s)) for i, s in enumerate(requests)}
    return {i: pair for i, pair in pairs.items() if pair[0] != pair[1]}


def test_editors_get_the_completions_of_the_server_itself(turbopilot: int, demo_gguf: Path) -> None:
    with front(demo_gguf, f"http://127.0.0.1:{turbopilot}/v1") as (port, pool):
        assert pool.statuses[0].upstreams[0].engine == "TurboPilot"
        assert len(COMPLETED) > 50
        assert differences(port, turbopilot, COMPLETED) == {}
        outcomes = pool.statuses[0].upstreams[0].outcomes
        assert outcomes["ok"] >= len(COMPLETED)
        assert not outcomes["failed"]


def test_json_schema_and_log_probabilities_pass_through(turbopilot: int, demo_gguf: Path) -> None:
    bodies = (
        {"prompt": "x = ", "max_tokens": 24, "json_schema": {"type": "object", "properties": {"a": {"type": "integer"}},
                                                            "required": ["a"]}},
        {"prompt": "def add(a, b):", "max_tokens": 6, "logprobs": 2},
        {"prompt": "def add(a, b):", "max_tokens": 6, "top_k": 1, "logit_bias": {"198": -100}},
    )  # fmt: skip
    with front(demo_gguf, f"http://127.0.0.1:{turbopilot}") as (port, _):
        for body in bodies:
            ours, theirs = (
                json.loads(ask(p, "POST", "/v1/completions", body)[2])["choices"][0]
                for p in (port, turbopilot)
            )
            assert ours["text"] == theirs["text"]
            if ours["logprobs"]:
                assert ours["logprobs"]["tokens"] == theirs["logprobs"]["tokens"]
                numbers = (c["logprobs"]["token_logprobs"] for c in (ours, theirs))
                assert next(numbers) == pytest.approx(next(numbers), abs=1e-3)


def test_prompt_scores_are_refused(turbopilot: int, demo_gguf: Path) -> None:
    body = {"prompt": "x", "echo": True, "logprobs": 1, "max_tokens": 1}
    with front(demo_gguf, f"http://127.0.0.1:{turbopilot}") as (port, _):
        status, _, data = ask(port, "POST", "/v1/completions", body)
        assert status == 400
        assert json.loads(data)["error"]["param"] == "echo"


def test_state_of_the_upstream_is_shown(turbopilot: int, demo_gguf: Path) -> None:
    url = f"http://127.0.0.1:{turbopilot}"
    with front(demo_gguf, url) as (port, pool):
        ask(port, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 2})
        health = json.loads(ask(port, "GET", "/health")[2])
        (shown,) = health["models"][0]["upstreams"]
        assert (health["status"], shown["name"], shown["status"]) == ("ok", url, "healthy")
        assert shown["outcomes"]["ok"] == 1
        assert json.loads(ask(port, "GET", "/props")[2])["upstreams"] == [shown]
        metrics = ask(port, "GET", "/metrics")[2].decode()
        label = f'{{model="{pool.known[0].name}",upstream="{url}"}}'
        assert f"turbopilot_upstream_healthy{label} 1.0" in metrics
        assert f"turbopilot_upstream_requests_total{label} 1.0" in metrics


def test_front_without_an_upstream_starts_and_states_why_it_cannot_answer(demo_gguf: Path) -> None:
    with bind("127.0.0.1", 0) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with front(demo_gguf, url) as (port, _):
        status, _, data = ask(port, "GET", "/health")
        assert status == 503
        assert url in json.loads(data)["reason"]
        status, headers, _ = ask(port, "POST", "/v1/completions", {"prompt": "x"})
        assert status == 503
        assert int(headers["Retry-After"]) >= 1


def test_editors_get_the_same_completions_from_llama_server(
    turbopilot: int, demo_gguf: Path
) -> None:
    """Allow for two programs whose numbers differ in their last bits, which may decide between two likely tokens."""
    if not (binary := llama_server()):
        pytest.skip("no llama-server: set TURBOPILOT_LLAMA_SERVER")
    command = [binary, "-m", str(demo_gguf), "--port", "0", "-np", "2", "-c", "2048", "-t", "1"]
    env = {**os.environ, "LD_LIBRARY_PATH": str(Path(binary).parent)}
    with (
        engine_process(command, r"listening on (http://127\.0\.0\.1:\d+)", env) as url,
        front(demo_gguf, url) as (port, pool),
    ):
        assert pool.statuses[0].upstreams[0].engine == "llama-server"
        differing = differences(port, turbopilot, COMPLETED)
        assert len(differing) <= 3, differing
        assert not pool.statuses[0].upstreams[0].outcomes["failed"]
        again = json.loads(ask(port, "POST", "/v1/completions", {"prompt": "def f(a):\n" * 9})[2])
        again = json.loads(ask(port, "POST", "/v1/completions", {"prompt": "def f(a):\n" * 9})[2])
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_completions_of_llama_cpp_python_arrive(turbopilot: int, demo_gguf: Path) -> None:
    if not (python := llama_cpp_python()):
        pytest.skip("no packages of llama_cpp.server: set TURBOPILOT_LLAMA_CPP_PYTHON")
    command = [
        python, "-m", "llama_cpp.server", "--model", str(demo_gguf), "--host", "127.0.0.1", "--port", "0",
        "--n_ctx", "1024", "--n_threads", "1", "--interrupt_requests", "false",
    ]  # fmt: skip
    plain = [s for s in COMPLETED if s.path == "/v1/completions" and not s.body.get("logprobs")]
    with (
        engine_process(command, r"running on (http://127\.0\.0\.1:\d+)") as url,
        front(demo_gguf, url) as (port, pool),
    ):
        assert pool.statuses[0].upstreams[0].engine == "llama-cpp-python"
        differing = differences(port, turbopilot, plain)
        # It takes text, and cannot be held to the characters at the cursor.
        assert len(differing) <= len(plain) // 4, differing
        assert not pool.statuses[0].upstreams[0].outcomes["failed"]
