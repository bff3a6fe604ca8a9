"""llama.cpp's RPC: devices of other processes or machines, and the worker that lends them.

The protocol has no authentication and no encryption, and llama.cpp's README calls it "fragile and insecure": everyone
who reaches a worker's port can read its memory and stop it. A worker serves one client at a time; others wait.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from turbopilot.base.backends import BACKENDS, Reinstallation, built_backends
from turbopilot.base.errors import InvalidInput, ServeError
from turbopilot.llama.devices import Device, device_at
from turbopilot.llama.library import Signature, declare, ggml, start_backend
from turbopilot.llama.rpc_protocol import connect_worker, parse_worker
from turbopilot.llama.worker_link import WorkerLink

_POINTER: Final = ctypes.c_void_p
_FUNCTIONS: Final[dict[str, Signature]] = {
    "ggml_backend_reg_by_name": ([ctypes.c_char_p], _POINTER),
    "ggml_backend_reg_get_proc_address": ([_POINTER, ctypes.c_char_p], _POINTER),
    "ggml_backend_reg_dev_count": ([_POINTER], ctypes.c_size_t),
    "ggml_backend_reg_dev_get": ([_POINTER, ctypes.c_size_t], _POINTER),
}
_ADD_SERVER: Final = ctypes.CFUNCTYPE(_POINTER, ctypes.c_char_p)
_START_SERVER: Final = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, _POINTER
)
# Links to the workers of this process by address, each with llama.cpp's addresses of its devices.
_links: Final[dict[str, tuple[WorkerLink, tuple[int, ...]]]] = {}


def has_rpc() -> bool:
    """Return whether llama.cpp was compiled with RPC."""
    start_backend()  # in a portable build, RPC is a library that this loads
    declare(ggml, _FUNCTIONS)
    return bool(ggml.ggml_backend_reg_by_name(b"RPC"))


def worker_devices(addresses: Iterable[str]) -> tuple[Device, ...]:
    """Return the devices of workers, with their free memory now. A worker that was lost is linked again.

    llama.cpp's own list of devices does not have them, since it would keep those of lost workers.

    Args:
        addresses: workers as HOST:PORT.

    Raises:
        InvalidInput: an address is not HOST:PORT, or llama.cpp was compiled without RPC.
        DeviceLost: a worker cannot be reached, or is in use.
        ServeError: a worker has another version, or no devices.
    """
    addresses = tuple(dict.fromkeys(addresses))
    for address in addresses:
        parse_worker("--rpc", address)
    if addresses:
        require_rpc("--rpc")
    found: list[Device] = []
    for address in addresses:
        link, pointers = _links.get(address, (None, ()))
        if link is None or link.lost:
            link, pointers = _links[address] = _linked(address)
        for device in map(device_at, pointers):
            name = f"RPC{len(found)}"
            found.append(replace(device, name=name, description=address, link=link))
        link.check()
    return tuple(found)


def _linked(address: str) -> tuple[WorkerLink, tuple[int, ...]]:
    start_backend()
    add_server = _ADD_SERVER(_function("ggml_backend_rpc_add_server", "--rpc"))
    connect_worker(address).close()  # for its error
    link = WorkerLink(address)
    registry = add_server(link.endpoint.encode())
    link.check()
    if not registry:
        raise ServeError(f"the worker {address} has no devices", hint="start it again")
    n = ggml.ggml_backend_reg_dev_count(registry)
    return link, tuple(ggml.ggml_backend_reg_dev_get(registry, i) for i in range(n))


def is_available(address: str, timeout: float) -> bool:
    """Return whether a worker can be used: it answers, or this process is linked to it already."""
    link, _ = _links.get(address, (None, ()))
    if link and not link.lost:
        return True
    try:
        connect_worker(address, timeout).close()
    except ServeError:
        return False
    return True


def is_listening(address: str, timeout: float = 0.5) -> bool:
    """Return whether a worker's machine accepts a connection."""
    try:
        with socket.create_connection(parse_worker("--rpc", address), timeout):
            return True
    except OSError:
        return False


def lend_devices(
    host: str, port: int, pointers: Sequence[int], *, threads: int, cache: str = ""
) -> None:
    """Run a worker in this thread; return only if llama.cpp cannot listen.

    Args:
        host: IPv4 address to listen on.
        port: port to listen on.
        pointers: llama.cpp's addresses of the devices to lend; see `LentMemory` for a limit on them.
        threads: number of threads, if a device is the processor.
        cache: existing folder that keeps large tensors, so that they are sent only once; "" for none.

    Raises:
        InvalidInput: llama.cpp was compiled without RPC.
    """
    start_backend()
    start = _START_SERVER(_function("ggml_backend_rpc_start_server", "turbopilot worker"))
    devices = (ctypes.c_void_p * len(pointers))(*pointers)
    folder = cache.encode() if cache else None
    start(f"{host}:{port}".encode(), folder, threads, len(pointers), ctypes.addressof(devices))


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
