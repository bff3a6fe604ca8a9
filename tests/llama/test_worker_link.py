"""Relay to a worker: it passes messages on, and answers in the place of a worker that is lost."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.fake_worker import FakeWorker
from turbopilot.base.errors import DeviceLost
from turbopilot.base.tcp import CAN_LIST_SOCKETS
from turbopilot.llama import worker_link
from turbopilot.llama.rpc_protocol import (
    GET_TENSOR,
    HELLO_ANSWER,
    HELLO_REQUEST,
    REQUEST,
    SIZE,
    SUBSTITUTES,
    answer_size,
    receive,
)
from turbopilot.llama.worker_link import WorkerLink

SET_TENSOR, COUNT, GRAPH = 6, 15, 10
LARGE = 3 * 2**20 + 5


@pytest.fixture
def worker() -> Iterator[FakeWorker]:
    with closing(FakeWorker()) as made:
        yield made


@pytest.fixture
def link(worker: FakeWorker) -> WorkerLink:
    return WorkerLink(worker.address)


@pytest.fixture
def client(link: WorkerLink) -> Iterator[socket.socket]:
    """A connection as llama.cpp makes it."""
    host, _, port = link.endpoint.partition(":")
    with socket.create_connection((host, int(port))) as s:
        s.sendall(HELLO_REQUEST)
        assert receive(s, SIZE.size) == SIZE.pack(len(HELLO_ANSWER))
        assert receive(s, len(HELLO_ANSWER)) == HELLO_ANSWER
        yield s


def request(command: int, payload: bytes = b"") -> bytes:
    return REQUEST.pack(command, len(payload)) + payload


def answer(s: socket.socket) -> bytes:
    (n,) = SIZE.unpack(receive(s, SIZE.size))
    return receive(s, n)


def test_requests_and_answers_pass_unchanged(worker: FakeWorker, client: socket.socket) -> None:
    weights = bytes(range(256)) * (LARGE // 256 + 1)
    for command, payload, expected in (
        (SET_TENSOR, weights, None),
        (COUNT, b"", b"\2\0\0\0"),
        (GET_TENSOR, b"tensor" + SIZE.pack(LARGE), weights[:LARGE]),
        (GET_TENSOR, b"tensor" + SIZE.pack(0), b""),
        (GRAPH, b"graph", None),
    ):
        worker.replies.put(b"" if expected is None else SIZE.pack(len(expected)) + expected)
        client.sendall(request(command, payload))
        assert worker.requests.get() == (command, payload)
        if expected is not None:
            assert answer(client) == expected


@pytest.mark.parametrize("command", [*SUBSTITUTES, GET_TENSOR])
def test_lost_worker_is_answered_for(
    command: int, worker: FakeWorker, link: WorkerLink, client: socket.socket
) -> None:
    payload = b"tensor" + SIZE.pack(LARGE)
    worker.replies.put(None)
    for _ in range(2):
        client.sendall(request(SET_TENSOR, bytes(LARGE)) + request(command, payload))
        found = answer(client)
        assert len(found) == answer_size(command, payload)
        assert found == SUBSTITUTES.get(command, bytes(LARGE))
        if command != 14:  # the relay itself answers HELLO
            assert link.lost
            with pytest.raises(DeviceLost, match=f"the worker {worker.address} is gone: "):
                link.check()


def test_answer_that_ends_early_is_filled_up(
    worker: FakeWorker, link: WorkerLink, client: socket.socket
) -> None:
    begun = b"x" * (2**20 + 7)
    worker.replies.put(SIZE.pack(LARGE) + begun)
    client.sendall(request(GET_TENSOR, SIZE.pack(LARGE)))
    assert receive(client, SIZE.size) == SIZE.pack(LARGE)
    assert receive(client, 2**20) == b"x" * 2**20
    worker.hang_up()
    rest = receive(client, LARGE - 2**20)
    assert not rest.strip(b"x").strip(b"\0")
    assert link.lost


def test_answer_of_the_wrong_size_is_a_loss(
    worker: FakeWorker, link: WorkerLink, client: socket.socket
) -> None:
    worker.replies.put(SIZE.pack(5) + b"12345")
    client.sendall(request(COUNT))
    assert answer(client) == SUBSTITUTES[COUNT]
    assert link.lost is not None
    assert "wrong size" in link.lost.message


def test_loss_is_reported_once_without_a_request(
    worker: FakeWorker, link: WorkerLink, client: socket.socket
) -> None:
    told: list[DeviceLost] = []
    lost = threading.Event()
    forgotten = link.watch(lambda error: told.append(error))
    link.watch(lambda error: lost.set())
    forgotten()
    worker.hang_up()
    assert lost.wait(60)
    link.watch(told.append)  # also after the loss
    client.sendall(request(COUNT))
    assert answer(client) == SUBSTITUTES[COUNT]
    assert told == [link.lost]


def test_worker_that_is_not_there_is_lost_at_the_first_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    link = WorkerLink(address)
    with socket.create_connection(("127.0.0.1", int(link.endpoint.partition(":")[2]))) as s:
        s.sendall(HELLO_REQUEST + request(COUNT))
        assert answer(s) == HELLO_ANSWER
        assert answer(s) == SUBSTITUTES[COUNT]
    assert link.lost is not None
    assert link.lost.message.startswith(f"the worker {address} cannot be reached: ")
    assert link.lost.workers == (address,)


def test_connection_to_the_worker_ends_with_that_of_llama_cpp(
    worker: FakeWorker, link: WorkerLink, client: socket.socket
) -> None:
    client.close()
    with socket.create_connection(("127.0.0.1", int(link.endpoint.partition(":")[2]))) as again:
        again.sendall(HELLO_REQUEST + request(COUNT))  # a worker serves one connection at a time
        worker.replies.put(SIZE.pack(4) + b"\1\0\0\0")
        assert answer(again) == HELLO_ANSWER
        assert answer(again) == b"\1\0\0\0"
    assert link.lost is None


@pytest.mark.skipif(not CAN_LIST_SOCKETS, reason="this system does not list a process's sockets")
def test_other_processes_cannot_use_the_relay(link: WorkerLink) -> None:
    code = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print(s.recv(9))"
    done = subprocess.run(
        [sys.executable, "-c", code, link.endpoint.partition(":")[2]], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout == "b''\n"
    assert link.lost is None


def test_relay_ends_when_nothing_refers_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_link, "_LOOK_SECONDS", 0.01)
    before = set(threading.enumerate())
    link = WorkerLink("127.0.0.1:1")
    (thread,) = set(threading.enumerate()) - before
    del link
    thread.join(60)
    assert not thread.is_alive()
