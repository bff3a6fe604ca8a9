"""Under which names the server answers. Pure: knows nothing of Flask.

A web page may give its own name the address 127.0.0.1 once it is loaded ("DNS rebinding"). From then on the
browser takes this server for the page's own, and lets it read everything. Such requests still bear the page's
name as their Host. An IP address cannot be given to anybody else, and so is harmless.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

from serve.http.security.authority import ip_of, is_loopback, parse_authority
from turbopilot.base.errors import HostRefused, InvalidInput

ANY = "*"


def own_names() -> tuple[str, ...]:
    """What this machine calls itself: its name, in full and without its domain, and as its network finds it."""
    full = socket.gethostname().lower()
    short = full.partition(".")[0]
    return tuple(dict.fromkeys(name for name in (full, short, f"{short}.local") if short))


def check_name(name: str) -> str:
    """A name that the server is to answer under, as it is compared.

    Raises:
        InvalidInput: it is none.
    """
    authority = parse_authority(name)
    if name == ANY:
        return name
    if authority is None or authority.port is not None:
        raise InvalidInput(
            f"--allowed-host {name}: no name of a machine",
            hint="give the name alone, as code.example.com: no http://, no port",
        )
    return authority.host


class Hosts:
    """Knows the server's names.

    Args:
        bound: the address that the server listens on.
        allowed: further names; "*" is every name.
        names: finds the machine's own names, where it listens beyond the machine.
    """

    def __init__(
        self,
        bound: str,
        allowed: Iterable[str] = (),
        names: Callable[[], Iterable[str]] = own_names,
    ) -> None:
        self._is_local = is_loopback(bound)
        self._names = {name.lower().removesuffix(".") for name in allowed}
        if not self._is_local:
            self._names.update(names())

    def accepts(self, header: str) -> bool:
        """Whether a Host header names this server. HTTP/1.0 has none, and browsers always send it."""
        if not header or ANY in self._names:
            return True
        authority = parse_authority(header)
        if authority is None:
            return False
        if is_loopback(authority.host) or authority.host in self._names:
            return True
        return not self._is_local and ip_of(authority.host) is not None

    def check(self, header: str) -> None:
        """Refuse a request under a foreign name.

        Raises:
            HostRefused: it is one.
        """
        if not self.accepts(header):
            raise HostRefused(
                f"Host {header[:100]!r} is no name of this server; its operator can allow it: "
                "turbopilot serve --allowed-host NAME"
            )
