"""Detection of a TCP peer that lost its power or network: without it, a connection may wait for hours."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

LOST_SECONDS: Final = 10
"""Seconds after which a peer that acknowledges nothing is lost."""

_IDLE, _INTERVAL, _PROBES = 4, 2, 3  # seconds, seconds, number: together LOST_SECONDS
# Begin of struct tcp_info in linux/tcp.h: 8 bytes, of which the third is the number of retransmissions in a row, and
# words, of which the thirteenth is the time in milliseconds since the last acknowledgement.
_INFO: Final = struct.Struct("=2xB5x48xI")
_DESCRIPTORS: Final = Path("/proc/self/fd")
CAN_LIST_SOCKETS: Final = _DESCRIPTORS.is_dir()
"""Whether `own_sockets` finds any: on Linux."""


def keep_alive(connection: socket.socket) -> None:
    """Let the system end a connection whose peer is lost while nothing is sent to it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # macOS has another name for the first one, and Windows before 10 has none.
    for name, value in (
        ("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPALIVE", _IDLE), ("TCP_KEEPINTVL", _INTERVAL), ("TCP_KEEPCNT", _PROBES),
    ):  # fmt: skip
        if option := getattr(socket, name, None):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def is_unreachable(connection: socket.socket) -> bool:
    """Return whether the peer has acknowledged nothing of what was sent for LOST_SECONDS. Always False but on Linux.

    TCP_USER_TIMEOUT would also end the connection to a peer that acknowledges, but is too busy to read.
    """
    option = getattr(socket, "TCP_INFO", None)
    if option is None or not hasattr(
        socket, "TCP_USER_TIMEOUT"
    ):  # TCP_INFO has other fields elsewhere
        return False
    retransmissions, since = _INFO.unpack(
        connection.getsockopt(socket.IPPROTO_TCP, option, _INFO.size)
    )
    return bool(retransmissions) and since > LOST_SECONDS * 1000


def keep_alive_accepted(port: int) -> None:
    """Let the system end connections that a library accepts on a port of this process when their peers are lost.

    They inherit the options of the listening socket. Does nothing but on Linux.
    """
    for s in own_sockets():
        if s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and s.getsockname()[1] == port:
            keep_alive(s)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_SECONDS * 1000)


def own_sockets() -> Iterator[socket.socket]:
    """Yield duplicates of the IPv4 TCP sockets of this process, also of those that a library has opened."""
    for path in _DESCRIPTORS.iterdir() if CAN_LIST_SOCKETS else ():
        # Only sockets, as closing the duplicate of a file would end the locks on the file.
        with suppress(OSError):
            if stat.S_ISSOCK(path.stat().st_mode):
                with socket.socket(fileno=os.dup(int(path.name))) as s:
                    if (s.family, s.type) == (socket.AF_INET, socket.SOCK_STREAM):
                        yield s
