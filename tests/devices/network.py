"""Network of namespaces: machines with one address each, joined by links with delay and loss.

The links are TUN devices, whose packets a thread carries from one to the other. So they need no module of the kernel
that delays packets (netem), TCP really retransmits, and a link can be cut.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_TUN = Path("/dev/net/tun")
_NAMESPACES = Path("/run/netns")
# linux/if_tun.h: the request that names a device, and its flags for IP packets without a header.
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000  # linux/sched.h


def can_unshare() -> bool:
    """Return whether this process may make namespaces, which root in a container may not."""
    if not shutil.which("unshare"):
        return False
    done = subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True, check=False)
    return done.returncode == 0


@cache
def why_none() -> str:
    """Return why this machine cannot make networks of namespaces, or ""."""
    if os.name != "posix" or os.geteuid() != 0 or not can_unshare():
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "no ip command: install iproute2"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"{_TUN} cannot be opened"
    return ""


def run_ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)


class Network:
    """Machines 10.99.0.1, 10.99.0.2, … in namespaces; all links have the same delay and loss.

    Attributes:
        n_carried: packets that arrived.
        n_dropped: packets that were lost.
    """

    def __init__(self, n: int, delay: float, loss: float) -> None:
        self._delay, self._loss, self._draw = delay, loss, random.Random(0)
        self._cut: set[int] = set()
        self._devices: list[int] = []
        self.names = [f"tp-{os.getpid()}-{i}" for i in range(n)]
        self.n_carried = self.n_dropped = 0
        self._is_over, self._wake = os.pipe()
        for i, name in enumerate(self.names):
            run_ip("netns", "add", name)
            device = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
            self._devices.append(device)
            named = struct.pack(
                "16sH14x", f"tp{os.getpid()}x{i}"[:15].encode(), _IFF_TUN | _IFF_NO_PI
            )
            made = fcntl.ioctl(device, _TUNSETIFF, named)[:16].rstrip(b"\0").decode()
            run_ip("link", "set", made, "netns", name)
            run_ip("-n", name, "address", "add", f"{self.address(i)}/24", "dev", made)
            run_ip("-n", name, "link", "set", made, "up")
            run_ip("-n", name, "link", "set", "lo", "up")
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def address(self, i: int) -> str:
        return f"10.99.0.{i + 1}"

    def command(self, i: int) -> list[str]:
        """Return the words that run a command on a machine."""
        return ["ip", "netns", "exec", self.names[i]]

    def cut(self, i: int) -> None:
        """Drop all packets from and to a machine from now on."""
        self._cut.add(i)

    def mend(self, i: int) -> None:
        self._cut.discard(i)

    def _carry(self) -> None:
        poll = select.poll()
        for fd in (*self._devices, self._is_over):
            poll.register(fd, select.POLLIN)
        late: deque[tuple[float, int, bytes]] = (
            deque()
        )  # in order, as the delay is the same for all
        while True:
            wait = None if not late else max(0.0, late[0][0] - time.monotonic()) * 1000
            for fd, _ in poll.poll(wait):
                if fd == self._is_over:
                    return
                packet = os.read(fd, 65535)
                if packet[0] >> 4 == 4:
                    late.append((time.monotonic() + self._delay, self._devices.index(fd), packet))
            while late and late[0][0] <= time.monotonic():
                _, source, packet = late.popleft()
                self._arrive(source, packet)

    def _arrive(self, source: int, packet: bytes) -> None:
        target = packet[19] - 1  # the last byte of the address
        is_lost = not self._cut.isdisjoint((source, target)) or self._draw.random() < self._loss
        if is_lost or not 0 <= target < len(self._devices):
            self.n_dropped += 1
        else:
            os.write(self._devices[target], packet)
            self.n_carried += 1

    def close(self) -> None:
        os.write(self._wake, b".")
        self._thread.join()
        for fd in (*self._devices, self._is_over, self._wake):
            os.close(fd)
        for name in self.names:
            run_ip("netns", "delete", name)


@contextmanager
def network(n: int, *, delay: float = 0.005, loss: float = 0.01) -> Iterator[Network]:
    """Run a network until the block ends; delay in seconds in each direction."""
    made = Network(n, delay, loss)
    try:
        yield made
    finally:
        made.close()


def connect_inside(namespace: str, port: int) -> socket.socket:
    """Connect to a port of loopback in a namespace."""

    def connect() -> socket.socket:
        with (_NAMESPACES / namespace).open() as file:
            assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET) == 0
        return socket.create_connection(("127.0.0.1", port))

    return in_thread(connect)  # setns changes the namespace of a thread


def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
