"""The server's address, from what `serve` was told or from a URL."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from turbopilot.base.errors import InvalidInput

# Listening on every network: not an address to call, but this machine is one of them.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address, in parts that fit together.

    Attributes:
        scheme: http or https.
        host: a name or a number; IPv6 in brackets.
        port: None for the scheme's own.
        path: before every route, as `/turbopilot` behind a proxy; never ends with a slash.
    """

    scheme: str
    host: str
    port: int | None
    path: str = ""

    @property
    def url(self) -> str:
        """The whole address, without a slash at the end.

        >>> Address("http", "[::1]", 18080).url
        'http://[::1]:18080'
        """
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.path}"


def address_of(host: str, port: int) -> Address:
    """Return the address of a server, from what it listens on.

    Args:
        host: a name or number, IPv6 with or without brackets. Every network (0.0.0.0, ::) means this machine.
        port: not 0, which is any free one.

    >>> address_of("::1", 18080).url
    'http://[::1]:18080'
    """
    if "/" in host:
        raise InvalidInput(f"--host {host}: a URL is no host", hint=f"give --url {host}")
    if not 1 <= port <= 65535:
        raise InvalidInput(
            f"--port {port}: no port to call",
            hint="give the one that serve printed, between 1 and 65535",
        )
    bare = host.removeprefix("[").removesuffix("]")
    return Address("http", _bracketed(_EVERYWHERE.get(bare, bare), "--host", host), port)


def address_at(url: str) -> Address:
    """Return the address of a URL, without a slash or /v1 at its end: plugins differ in whether they want it.

    >>> address_at("https://code.example/turbopilot/v1/").url
    'https://code.example/turbopilot'
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise InvalidInput(f"--url {url}: {e}", hint="as http://127.0.0.1:18080") from e
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"--url {url}: no http or https URL", hint="as http://127.0.0.1:18080")
    if parts.query or parts.fragment or parts.username is not None:
        raise InvalidInput(
            f"--url {url}: a server's address has no user, query or fragment",
            hint="give a key by --api-key",
        )
    _require_printable("--url", url)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Address(parts.scheme, _bracketed(parts.hostname, "--url", url), port, path)


def _bracketed(host: str, option: str, given: str) -> str:
    """Return the host as it is written in a URL."""
    if ":" in host:
        try:
            return f"[{ipaddress.IPv6Address(host)}]".replace("%", "%25")
        except ValueError as e:
            raise InvalidInput(
                f"{option} {given}: no IPv6 address, and no host has a colon",
                hint="give the port by --port",
            ) from e
    _require_printable(option, host)
    return host


def _require_printable(option: str, text: str) -> None:
    """Printable ASCII without spaces: what can stand in a URL or a header, and in a setting of any format."""
    if not text or not all("!" <= c <= "~" for c in text):
        raise InvalidInput(
            f"{option} {text!r}: must be printable ASCII without spaces",
            hint="a name with other letters has an ASCII form (xn--…)",
        )
