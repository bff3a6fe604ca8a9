"""Messages of llama.cpp's RPC, and the first ones of a connection to a worker.

A request is a command (1 byte), the size of its payload (8 bytes), and the payload. An answer is the size of its
payload (8 bytes) and the payload; not every command has one. The client sends the next request after the answer.
Source: ggml-rpc.cpp of protocol version 7.
"""

from __future__ import annotations

import re
import socket
import struct
from typing import Final

from turbopilot.base.errors import DeviceLost, InvalidInput, ServeError
from turbopilot.llama.placement_wish import DEFAULT_WORKER_PORT

CONNECT_SECONDS: Final = 5.0
REQUEST: Final = struct.Struct("<BQ")
"""Command, and size of the payload."""
SIZE: Final = struct.Struct("<Q")
HELLO: Final = 14
"""Command that begins a connection. Source: enum rpc_cmd, "must be always 14"."""
GET_TENSOR: Final = 8
"""Command whose payload ends with the size of its answer's payload."""

_CAPABILITIES: Final = 24  # RPC_CONN_CAPS_SIZE in transport.h; zeros mean TCP alone, without RDMA
_VERSION: Final = (7, 0, 0)  # RPC_PROTO_*_VERSION in ggml-rpc.h
HELLO_REQUEST: Final = REQUEST.pack(HELLO, _CAPABILITIES) + bytes(_CAPABILITIES)
HELLO_ANSWER: Final = bytes((*_VERSION, 0)) + bytes(_CAPABILITIES)

# Command → payload of the answer if the worker is lost. Sizes and order: enum rpc_cmd and the rpc_msg_*_rsp structures.
# A buffer that could not be allocated has the address 0. The base of a buffer must not be 0. An answer about alignment
# or sizes may be wrong, as nothing is computed with it: llama.cpp keeps them for an endpoint, and a worker that returns
# gets another one.
SUBSTITUTES: Final[dict[int, bytes]] = {
    0: bytes(16),  # ALLOC_BUFFER: address, size
    1: SIZE.pack(128),  # GET_ALIGNMENT
    2: SIZE.pack(2**62),  # GET_MAX_SIZE
    3: SIZE.pack(4096),  # BUFFER_GET_BASE
    7: b"\x01",  # SET_TENSOR_HASH: the worker has the data
    9: b"\x01",  # COPY_TENSOR: copied
    11: bytes(16),  # GET_DEVICE_MEMORY: free, total
    13: SIZE.pack(0),  # GET_ALLOC_SIZE: llama.cpp uses the tensor's own size if it is larger
    HELLO: HELLO_ANSWER,
    15: struct.pack("<I", 1),  # DEVICE_COUNT
}


def answer_size(command: int, request: bytes) -> int | None:
    """Return the size of the payload of a command's answer; None if the command has no answer.

    Args:
        command: the command.
        request: its payload; its last 8 bytes are sufficient.
    """
    if command == GET_TENSOR:
        return int(SIZE.unpack(request[-SIZE.size :])[0])
    return len(SUBSTITUTES[command]) if command in SUBSTITUTES else None


def parse_worker(option: str, text: str) -> tuple[str, int]:
    """Return host and port of a worker. llama.cpp's workers listen on IPv4 only.

    Raises:
        InvalidInput: the text is not HOST:PORT.
    """
    found = re.fullmatch(r"([\w.-]+):(\d{1,5})", text, re.ASCII)
    if not found or not 0 < int(found[2]) < 65536:
        raise InvalidInput(
            f"{option} {text}: not the address of a worker",
            hint=f"give HOST:PORT, for example 127.0.0.1:{DEFAULT_WORKER_PORT}",
        )
    return found[1], int(found[2])


def connect_worker(address: str, timeout: float = CONNECT_SECONDS) -> socket.socket:
    """Connect to a worker, exchange versions, and return the connection, which has no timeout.

    Raises:
        DeviceLost: the worker cannot be reached, or is in use.
        ServeError: the worker has another version.
    """
    host, port = parse_worker("--rpc", address)
    connection = None
    try:
        connection = socket.create_connection((host, port), timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(HELLO_REQUEST)
        head = receive(connection, SIZE.size + 1)
        n_bytes, version = struct.unpack("<QB", head)
        if n_bytes == len(HELLO_ANSWER) and version == _VERSION[0]:
            receive(connection, len(HELLO_ANSWER) - 1)
            connection.settimeout(None)
            found, connection = connection, None
            return found
    except TimeoutError:
        raise DeviceLost(
            f"the worker {address} does not answer within {timeout:g} s",
            hint="a worker serves one program at a time: stop the other one, or check the address",
            workers=(address,),
        ) from None
    except OSError as e:
        raise DeviceLost(
            f"the worker {address} cannot be reached: {e.strerror or e}",
            hint=f"start it on that machine: turbopilot worker --host {host} --port {port}",
            workers=(address,),
        ) from None
    finally:
        if connection:
            connection.close()
    raise ServeError(
        f"{address} is not a worker of this llama.cpp's version (protocol {_VERSION[0]})",
        hint="install the same version of llama-cpp-python on both machines",
    )


def receive(connection: socket.socket, n: int) -> bytes:
    """Return the next `n` bytes.

    Raises:
        OSError: the connection was closed before that, or is broken.
    """
    data = b""
    while len(data) < n:
        part = connection.recv(n - len(data), socket.MSG_WAITALL)
        if not part:
            raise ConnectionResetError("the connection was closed")
        data += part
    return data
