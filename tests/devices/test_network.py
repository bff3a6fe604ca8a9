"""A head and two workers on machines with delay and loss between them. Run by scripts/test_devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.devices.lab import Serving, Worker, serving, worker
from tests.devices.network import Network, network, why_none
from tests.devices.test_lost_workers import LONG, PROMPTS, events, local, split
from turbopilot.llama.rpc import has_rpc

__all__ = ["local"]
pytestmark = [
    pytest.mark.devices,
    pytest.mark.skipif(not has_rpc(), reason="llama.cpp was compiled without RPC"),
    pytest.mark.skipif(bool(why_none()), reason=why_none() or "namespaces can be made"),
]


@pytest.fixture
def three() -> Iterator[tuple[Network, list[Worker]]]:
    """A network with 5 ms of delay in each direction and 1 % loss, and workers on machines 1 and 2."""
    with network(3) as net, ExitStack() as stack:
        yield (
            net,
            [
                stack.enter_context(worker(host=net.address(i), inside=net.command(i)))
                for i in (1, 2)
            ],
        )


def head(net: Network, model: Path, workers: list[Worker], stack: ExitStack) -> Serving:
    """Serve on machine 0."""
    return stack.enter_context(
        serving(model, *split(*workers), inside=net.command(0), namespace=net.names[0])
    )


def test_delay_and_loss_change_no_token(
    three: tuple[Network, list[Worker]], demo_gguf: Path, local: list[str]
) -> None:
    net, workers = three
    with ExitStack() as stack:
        server = head(net, demo_gguf, workers, stack)
        assert [server.text(prompt) for prompt in PROMPTS] == local
        assert net.n_dropped > 0.005 * net.n_carried > 0


def test_machine_without_network_is_noticed_and_returns_with_it(
    three: tuple[Network, list[Worker]], demo_gguf: Path, local: list[str]
) -> None:
    net, workers = three
    with ExitStack() as stack:
        server = head(net, demo_gguf, workers, stack)
        stream = events(stack.enter_context(closing(server.open("POST", "/v1/completions", LONG))))
        assert "choices" in next(stream)
        net.cut(2)
        *_, last = stream
        assert last["error"]["code"] == "device_lost"
        assert workers[1].address in last["error"]["message"]
        server.wait_for("waiting until")
        assert server.ask("GET", "/health")[1]["status"] == "failed"
        net.mend(2)  # the worker still has the old connection
        server.wait_for("is loaded again")
        assert [server.text(prompt) for prompt in PROMPTS] == local


def test_machine_without_network_is_noticed_while_idle(
    three: tuple[Network, list[Worker]], demo_gguf: Path
) -> None:
    net, workers = three
    with ExitStack() as stack:
        server = head(net, demo_gguf, workers, stack)
        net.cut(1)
        assert workers[0].address in server.wait_for("waiting until")
        status, answer = server.ask("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1})
        assert (status, answer["error"]["code"]) == (503, "device_lost")
