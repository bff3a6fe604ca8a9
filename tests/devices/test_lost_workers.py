"""Workers that are lost while a server uses them, and that return. Run by scripts/test_devices."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.devices.lab import Worker, serving, worker
from turbopilot.llama.rpc import has_rpc

pytestmark = [
    pytest.mark.devices,
    pytest.mark.skipif(not has_rpc(), reason="llama.cpp was compiled without RPC"),
]
PROMPTS = ("def f(x):\n    ", "class Stack:\n    def push(self, ", "import os\n\n\ndef read(")
LONG = {
    "prompt": PROMPTS[0],
    "max_tokens": 900,
    "temperature": 0,
    "stream": True,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def local(demo_gguf: Path) -> list[str]:
    """Completions without workers."""
    with serving(demo_gguf, "--ngl", "0") as server:
        return [server.text(prompt) for prompt in PROMPTS]


def split(*workers: Worker) -> list[str]:
    """Return the arguments that share a model out to workers."""
    addresses = ",".join(w.address for w in workers)
    return ["--rpc", addresses, "--tensor-split", ",".join("1" * len(workers)), "--ngl", "all"]


def events(connection: HTTPConnection) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream."""
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def restarted(stack: ExitStack, lost: Worker) -> Worker:
    """Start a worker on the address of one that was killed."""
    return stack.enter_context(worker(port=int(lost.address.rpartition(":")[2])))


def test_killed_worker_ends_each_request_with_one_error_and_the_server_returns_with_it(
    demo_gguf: Path, local: list[str]
) -> None:
    with ExitStack() as stack:
        lost, other = (stack.enter_context(worker()) for _ in range(2))
        server = stack.enter_context(serving(demo_gguf, *split(lost, other), "--parallel", "2"))
        assert [server.text(prompt) for prompt in PROMPTS] == local
        for _ in range(2):
            streams = [
                stack.enter_context(closing(server.open("POST", "/v1/completions", LONG)))
                for _ in range(3)
            ]
            read = [events(stream) for stream in streams]
            for each in read[:2]:  # the third one waits in the queue
                assert "choices" in next(each)
            lost.kill()
            for each in read:
                *_, last = each
                assert last["error"]["code"] == "device_lost"
                assert lost.address in last["error"]["message"]
                assert other.address not in last["error"]["message"]
            server.wait_for("waiting until")
            with closing(server.open("POST", "/v1/completions", {"prompt": "x"})) as connection:
                response = connection.getresponse()
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
                assert json.loads(response.read())["error"]["code"] == "device_lost"
            status, health = server.ask("GET", "/health")
            assert (status, health["status"]) == (503, "failed")
            assert health["reason"].startswith(f"the worker {lost.address} is gone: ")
            lost = restarted(stack, lost)
            server.wait_for("is loaded again")
            status, health = server.ask("GET", "/health")
            assert (status, health["status"]) == (200, "ok")
            assert [d["device"] for d in health["models"][0]["devices"]] == ["CPU", "RPC0", "RPC1"]
            assert [server.text(prompt) for prompt in PROMPTS] == local
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == 0


def test_worker_lost_while_idle_is_noticed_before_the_next_request(demo_gguf: Path) -> None:
    with worker() as lost, serving(demo_gguf, *split(lost)) as server:
        lost.kill()
        server.wait_for("waiting until")
        assert server.ask("GET", "/health")[1]["status"] == "failed"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == 0


def test_all_models_on_a_worker_return_with_it(demo_gguf: Path, local: list[str]) -> None:
    with ExitStack() as stack:
        lost = stack.enter_context(worker())
        models = [x for name in ("a", "b") for x in ("--model", f"{name}={demo_gguf}")]
        server = stack.enter_context(serving(None, *models, *split(lost)))
        for name in ("a", "b"):
            assert server.text(PROMPTS[0], name) == local[0]
        lost.kill()
        for _ in range(2):
            server.wait_for("waiting until")
        restarted(stack, lost)
        for _ in range(2):
            server.wait_for("is loaded again")
        for name in ("a", "b"):
            assert server.text(PROMPTS[0], name) == local[0]


def test_losses_do_not_add_up_in_memory(demo_gguf: Path) -> None:
    with ExitStack() as stack:
        lost = stack.enter_context(worker())
        server = stack.enter_context(serving(demo_gguf, *split(lost)))
        status = Worker("", server.process)
        found = []
        for _ in range(6):
            assert server.text(PROMPTS[0])
            descriptors = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
            found.append((status.memory(), descriptors))
            lost.kill()
            server.wait_for("waiting until")
            lost = restarted(stack, lost)
            server.wait_for("is loaded again")
        # The first loads grow the heap. The model and its context take more than 20 MB.
        assert found[-1][0] - found[2][0] < 2 * 2**20
        assert found[-1][1] <= found[2][1] + 2
