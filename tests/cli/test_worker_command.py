"""`turbopilot worker` and `--rpc`: addresses, and a llama.cpp without RPC."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from turbopilot.base.errors import DeviceLost, InvalidInput, ServeError
from turbopilot.cli import app
from turbopilot.llama.rpc import has_rpc, worker_devices
from turbopilot.llama.rpc_protocol import connect_worker, parse_worker

without_rpc = pytest.mark.skipif(has_rpc(), reason="llama.cpp was compiled with RPC")
with_rpc = pytest.mark.skipif(not has_rpc(), reason="llama.cpp was compiled without RPC")


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def other_server() -> Iterator[int]:
    """Port of a server that answers every connection with HTTP."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


def test_address_of_a_worker_is_host_and_port() -> None:
    assert parse_worker("--rpc", "gpu-box.lan:50052") == ("gpu-box.lan", 50052)


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:0", "host:65536", "[::1]:1", "a b:1"]
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"--rpc .*: not the address of a worker") as e:
        worker_devices([text])
    assert "HOST:PORT" in e.value.hint


def test_worker_that_is_not_there_is_named(closed_port: int) -> None:
    address = f"127.0.0.1:{closed_port}"
    with pytest.raises(DeviceLost, match=f"the worker {address} cannot be reached") as e:
        connect_worker(address)
    assert f"turbopilot worker --host 127.0.0.1 --port {closed_port}" in e.value.hint


def test_other_server_is_not_a_worker(other_server: int) -> None:
    with pytest.raises(ServeError, match=r"not a worker of this llama.cpp's version"):
        connect_worker(f"127.0.0.1:{other_server}")


@without_rpc
@pytest.mark.parametrize("arguments", [["worker"], ["serve", "--rpc", "127.0.0.1:50052"]])
def test_llama_cpp_without_rpc_is_an_error_with_the_command_that_adds_it(
    arguments: list[str], demo_gguf: Path
) -> None:
    if arguments[0] == "serve":
        arguments = [*arguments, str(demo_gguf), "--port", "0"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "compiled without RPC" in done.output
    assert "CMAKE_ARGS=-DGGML_RPC=ON" in done.output
    assert "pip install" in done.output


@with_rpc
def test_port_in_use_is_an_error(other_server: int) -> None:
    done = CliRunner().invoke(app, ["worker", "--port", str(other_server)])
    assert done.exit_code == 8
    assert f"cannot listen on 127.0.0.1 port {other_server}" in done.output
