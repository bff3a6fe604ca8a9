"""The `turbopilot worker` command."""

from __future__ import annotations

import os
import signal
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from turbopilot.base.errors import InvalidInput, ServeError
from turbopilot.base.option_values import parse_words
from turbopilot.base.sizes import parse_size, size
from turbopilot.commands.verb import Threads, takes
from turbopilot.llama.placement_wish import DEFAULT_WORKER_PORT
from turbopilot.render import console

_LOOK_SECONDS: Final = 0.05  # between two looks whether llama.cpp listens


# fmt: off
@dataclass(frozen=True, slots=True)
class WorkerArguments:
    """Arguments of `turbopilot worker`."""

    host: Annotated[str, typer.Option(
        "--host", help="IPv4 address to listen on. The protocol has no authentication: everyone who reaches the port "
        "can read the worker's memory and stop it. Never give an address that strangers can reach.",
    )] = "127.0.0.1"
    port: Annotated[int, typer.Option(
        "-p", "--port", min=0, max=65535, help="Port. 0 picks a free port.",
    )] = DEFAULT_WORKER_PORT
    memory: Annotated[str, typer.Option(
        "--memory", metavar="SIZE", help="Most memory to lend of each device, such as 8GiB. By default all of a GPU's, "
        "and what is free of this machine's at the start.", show_default=False,
    )] = ""
    device: Annotated[list[str] | None, typer.Option(
        "--device", metavar="NAME,…", help="Devices to lend, such as CUDA0,CUDA1, or CPU. By default all GPUs, or else "
        "the processor.", show_default=False,
    )] = None
    threads: Threads = 0
    cache: Annotated[Path | None, typer.Option(
        "--cache", help="Keep large tensors in this folder, so that the next start need not send them again.",
    )] = None
# fmt: on


@takes(WorkerArguments)
def worker(given: WorkerArguments) -> None:
    """Lend this machine's devices to a server on another machine.

    It lends its GPUs, or its processor and memory if there is none.

    The server is started with --rpc HOST:PORT, and puts layers of its model on this worker. A worker serves one server
    at a time. llama.cpp calls the protocol a proof of concept: use it in a private network only.

    Example: turbopilot worker --port 50052

    Example: turbopilot serve big.gguf --rpc 127.0.0.1:50052
    """
    from turbopilot.base.machine import usable_cores
    from turbopilot.base.tcp import keep_alive_accepted
    from turbopilot.llama.devices import device_at, lendable_devices
    from turbopilot.llama.lent_memory import limits
    from turbopilot.llama.library import start_backend
    from turbopilot.llama.rpc import is_listening, lend_devices, require_rpc

    require_rpc("turbopilot worker")
    most = parse_size("--memory", given.memory) if given.memory else None
    start_backend()
    devices = lendable_devices(parse_words(given.device or ()))
    address, port = _free_address(given.host, given.port)
    if given.cache:
        given.cache.mkdir(parents=True, exist_ok=True)
    if not address.startswith("127."):
        console.info(
            f"warning  --host {given.host}: everyone who can reach this address can read this worker's memory and "
            "stop it: the protocol has no authentication; use a private network, or an SSH tunnel"
        )
    with Path(os.devnull).open("w") as nowhere:  # llama.cpp logs every connection to stdout
        os.dup2(nowhere.fileno(), 1)
    _limits = limits(devices, most)
    for device in devices:
        console.info(f"lends    {device}: {size(device_at(device.pointer).free)}")
    lender = threading.Thread(
        target=lend_devices, args=(address, port, [d.pointer for d in devices]),
        kwargs={"threads": given.threads or usable_cores(), "cache": str(given.cache or "")}, daemon=True,
    )  # fmt: skip
    for number in (signal.SIGINT, signal.SIGTERM):
        # Nothing is lost, and llama.cpp never returns.
        signal.signal(number, lambda *_: os._exit(0))
    lender.start()
    here = "127.0.0.1" if address == "0.0.0.0" else address
    while lender.is_alive() and not is_listening(f"{here}:{port}"):
        lender.join(_LOOK_SECONDS)
    if lender.is_alive():
        keep_alive_accepted(port)
        console.info(f"ready    {here}:{port}  (press Ctrl-C to stop)")
        lender.join()
    raise ServeError(
        f"llama.cpp cannot listen on {address} port {port}", hint="choose another port with --port"
    )


def _free_address(host: str, port: int) -> tuple[str, int]:
    """Return the IPv4 address of a host, and a free port.

    Raises:
        InvalidInput: the host has no IPv4 address here.
        ServeError: the port is in use.
    """
    try:
        address = socket.gethostbyname(host)
        with socket.create_server((address, port)) as listener:
            return address, listener.getsockname()[1]
    except socket.gaierror as e:
        raise InvalidInput(
            f"--host {host}: not an IPv4 address of this machine ({e.strerror})",
            hint="try --host 127.0.0.1",
        ) from None
    except OSError as e:
        raise ServeError(
            f"cannot listen on {host} port {port}: {e.strerror or e}",
            hint=f"another worker may be running; stop it, or choose another port: --port {port + 1}",
        ) from None
