"""Validation of the Host header, as protection against DNS rebinding.

In this attack, the DNS name of a web page resolves to 127.0.0.1 after the page is loaded. The browser then treats this
server as the page's own and lets the page read all responses. The Host header still has the page's name, so requests
for unknown names are refused. IP addresses cannot be rebound, so they are accepted.

Werkzeug's TRUSTED_HOSTS compares only names: it supports neither "every IP address" nor IPv6.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable

from turbopilot.base.errors import HostRefused, InvalidInput

ANY = "*"
# The forms that browsers send: they encode other alphabets and do not shorten IP addresses.
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::([0-9]{0,5}))?")


def parse_authority(text: str) -> tuple[str, int | None] | None:
    """Return a Host header's name or IP address in lower case, and its port if any; None if it is not valid."""
    found = _AUTHORITY.fullmatch(text.strip(" \t"))
    if not found:
        return None
    v6, name, port = found.groups()
    host = v6 or name.lower().removesuffix(".")
    if v6 and (":" not in v6 or ip_of(v6) is None):
        return None
    return (host.lower(), int(port) if port else None) if host else None


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an IP address, and unwrap an IPv4-mapped IPv6 address; None if it is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback(host: str) -> bool:
    """Return whether a name or address always refers to this machine."""
    if address := ip_of(host):
        return address.is_loopback
    # Browsers and resolvers resolve these names to loopback addresses. Source: RFC 6761, 6.3.
    return host == "localhost" or host.endswith(".localhost")


def own_names() -> tuple[str, ...]:
    """Return this machine's name with and without its domain, and its mDNS name."""
    full = socket.gethostname().lower()
    short = full.partition(".")[0]
    return tuple(dict.fromkeys(name for name in (full, short, f"{short}.local") if short))


def check_name(name: str) -> str:
    """Return a normalized name from --allowed-host.

    Raises:
        InvalidInput: it is not a host name.
    """
    authority = parse_authority(name)
    if name == ANY:
        return name
    if authority is None or authority[1] is not None:
        raise InvalidInput(
            f"--allowed-host {name}: not a host name",
            hint="give only the name, such as code.example.com, without http:// or a port",
        )
    return authority[0]


class Hosts:
    """Host names and addresses of the server.

    Args:
        bound: the address that the server listens on.
        allowed: additional names; "*" allows every name.
        names: returns the machine's own names; called only if the server listens beyond loopback.
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
        """Return whether a Host header refers to this server.

        A missing header ("") is accepted: browsers always send one, and HTTP/1.0 clients may not.
        """
        if not header or ANY in self._names:
            return True
        authority = parse_authority(header)
        if authority is None:
            return False
        host, _ = authority
        if is_loopback(host) or host in self._names:
            return True
        return not self._is_local and ip_of(host) is not None

    def check(self, header: str) -> None:
        """Raise HostRefused if a Host header does not refer to this server."""
        if not self.accepts(header):
            raise HostRefused(
                f"Host {header[:100]!r} is not a name of this server; to allow it, start the server with "
                "--allowed-host NAME"
            )
