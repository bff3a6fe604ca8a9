"""`host:port` as a Host header and a web page's origin write it. Pure text; knows nothing of requests."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

# Nothing that a browser would put there is left out: it encodes other alphabets, and shortens no IP address.
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::([0-9]{0,5}))?")


class Authority(NamedTuple):
    """A name or an IP address, in small letters, and the port where one is given."""

    host: str
    port: int | None = None


def parse_authority(text: str) -> Authority | None:
    """What a Host header says; None where it is none."""
    found = _AUTHORITY.fullmatch(text.strip(" \t"))
    if not found:
        return None
    v6, name, port = found.groups()
    host = v6 or name.lower().removesuffix(".")
    if v6 and (":" not in v6 or ip_of(v6) is None):
        return None
    return Authority(host.lower(), int(port) if port else None) if host else None


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a text is, IPv4 in IPv6's clothes undressed; None where it is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback(host: str) -> bool:
    """Whether it means this machine, and can mean no other."""
    if address := ip_of(host):
        return address.is_loopback
    # Browsers and resolvers keep these names on the machine. Source: RFC 6761, 6.3.
    return host == "localhost" or host.endswith(".localhost")
