"""llama.cpp's RPC: devices of other processes or machines, and the worker that lends them.

The protocol has no authentication and no encryption, and llama.cpp's README calls it "fragile and insecure": everyone
who reaches a worker's port can read its memory and stop it. A worker serves one client at a time; others wait.
"""

from __future__ import annotations

import ctypes
import re
import socket
import struct
from collections.abc import Iterable
from typing import Final

from turbopilot.base.backends import BACKENDS, Reinstallation, built_backends
from turbopilot.base.errors import InvalidInput, ServeError
from turbopilot.llama.devices import worker_devices
from turbopilot.llama.library import Signature, declare, ggml, start_backend
from turbopilot.llama.placement_wish import DEFAULT_WORKER_PORT

CONNECT_SECONDS: Final = 5.0
_HELLO: Final = 14  # enum rpc_cmd in ggml-rpc.cpp, "must be always 14"
_CAPABILITIES: Final = 24  # RPC_CONN_CAPS_SIZE in transport.h
_PROTOCOL: Final = 7  # RPC_PROTO_MAJOR_VERSION in ggml-rpc.h
_POINTER: Final = ctypes.c_void_p
_FUNCTIONS: Final[dict[str, Signature]] = {
    "ggml_backend_reg_by_name": ([ctypes.c_char_p], _POINTER),
    "ggml_backend_reg_get_proc_address": ([_POINTER, ctypes.c_char_p], _POINTER),
    "ggml_backend_register": ([_POINTER], None),
}
_ADD_SERVER: Final = ctypes.CFUNCTYPE(_POINTER, ctypes.c_char_p)
_START_SERVER: Final = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, _POINTER
)
_added: Final[dict[str, None]] = {}  # workers of this process, in order


def has_rpc() -> bool:
    """Return whether llama.cpp was compiled with RPC."""
    start_backend()  # in a portable build, RPC is a library that this loads
    declare(ggml, _FUNCTIONS)
    return bool(ggml.ggml_backend_reg_by_name(b"RPC"))


def parse_worker(option: str, text: str) -> tuple[str, int]:
    """Return host and port of a worker. llama.cpp connects by IPv4 only.

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


def workers() -> tuple[str, ...]:
    """Return the workers that this process uses, as HOST:PORT."""
    return tuple(_added)


def add_workers(addresses: Iterable[str]) -> None:
    """Add the devices of workers to those of llama.cpp.

    Each worker is tried first, because llama.cpp ends the process if it cannot connect.

    Raises:
        InvalidInput: an address is not HOST:PORT, or llama.cpp was compiled without RPC.
        ServeError: a worker cannot be reached, is in use, or has another version.
    """
    addresses = [a for a in dict.fromkeys(addresses) if a not in _added]
    for address in addresses:
        parse_worker("--rpc", address)
    if not addresses:
        return
    start_backend()
    for address in addresses:
        add_server = _ADD_SERVER(_function("ggml_backend_rpc_add_server", "--rpc"))
        try_worker(address)
        registry = add_server(address.encode())
        if not registry:
            raise ServeError(f"the worker {address} has no devices", hint="start it again")
        ggml.ggml_backend_register(registry)
        _added[address] = None


def try_worker(address: str, timeout: float = CONNECT_SECONDS) -> None:
    """Connect to a worker, exchange versions, and disconnect.

    Raises:
        ServeError: the worker cannot be reached, is in use, or has another version.
    """
    host, port = parse_worker("--rpc", address)
    try:
        with socket.create_connection((host, port), timeout) as s:
            s.settimeout(timeout)
            s.sendall(struct.pack(f"<BQ{_CAPABILITIES}x", _HELLO, _CAPABILITIES))
            n_bytes, version = struct.unpack("<QB", _receive(s, 9))
    except TimeoutError:
        raise ServeError(
            f"the worker {address} does not answer within {timeout:.0f} s",
            hint="a worker serves one program at a time: stop the other one, or check the address",
        ) from None
    except (OSError, struct.error) as e:
        raise ServeError(
            f"the worker {address} cannot be reached: {getattr(e, 'strerror', None) or e}",
            hint=f"start it on that machine: turbopilot worker --host {host} --port {port}",
        ) from None
    if n_bytes != 4 + _CAPABILITIES or version != _PROTOCOL:
        raise ServeError(
            f"{address} is not a worker of this llama.cpp's version (protocol {_PROTOCOL})",
            hint="install the same version of llama-cpp-python on both machines",
        )


def is_listening(address: str, timeout: float = 0.5) -> bool:
    """Return whether a worker's machine does not refuse a connection.

    While a worker is in use, its system queues two connections, even closed ones, and does not answer further ones.
    """
    try:
        with socket.create_connection(parse_worker("--rpc", address), timeout):
            return True
    except TimeoutError:
        return True
    except OSError:
        return False


def lend_devices(host: str, port: int, *, threads: int, cache: str = "") -> None:
    """Run a worker in this thread; return only if llama.cpp cannot listen.

    Args:
        host: IPv4 address to listen on.
        port: port to listen on.
        threads: number of threads, if a device is the processor.
        cache: existing folder that keeps large tensors, so that they are sent only once; "" for none.

    Raises:
        InvalidInput: llama.cpp was compiled without RPC.
    """
    start_backend()
    start = _START_SERVER(_function("ggml_backend_rpc_start_server", "turbopilot worker"))
    found = worker_devices()
    devices = (ctypes.c_void_p * len(found))(*found)
    folder = cache.encode() if cache else None
    start(f"{host}:{port}".encode(), folder, threads, len(found), ctypes.addressof(devices))


def require_rpc(what: str) -> None:
    """Raise InvalidInput if llama.cpp was compiled without RPC; `what` needs it."""
    if not has_rpc():
        built = built_backends()
        backend = next(b for b in BACKENDS if b.name in built)
        raise InvalidInput(
            f"{what}: this llama.cpp was compiled without RPC",
            hint=f"reinstall it: {Reinstallation(backend).shell}",
        )


def _function(name: str, what: str) -> int:
    require_rpc(what)
    registry = ggml.ggml_backend_reg_by_name(b"RPC")
    return int(ggml.ggml_backend_reg_get_proc_address(registry, name.encode()))


def _receive(s: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n and (part := s.recv(n - len(data))):
        data += part
    return data
