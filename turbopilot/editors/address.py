"""The server's address, from host and port or from a URL."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from turbopilot.base.errors import InvalidInput

# Addresses that listen on every network cannot be called; this machine is reached by these.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address.

    Attributes:
        scheme: http or https.
        host: a name or IP address; IPv6 in brackets.
        port: None for the scheme's default.
        path: prefix of every route, as `/turbopilot` behind a proxy, without a final slash.
    """

    scheme: str
    host: str
    port: int | None
    path: str = ""

    @property
    def url(self) -> str:
        """The whole address, without a final slash.

        >>> Address("http", "[::1]", 18080).url
        'http://[::1]:18080'
        """
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.path}"


def address_of(host: str, port: int) -> Address:
    """Return the address of a server that listens on a host (0.0.0.0 and :: mean this machine) and a port.

    >>> address_of("::1", 18080).url
    'http://[::1]:18080'
    """
    if "/" in host:
        raise InvalidInput(f"--host {host}: not a host, but a URL", hint=f"give --url {host}")
    if not 1 <= port <= 65535:
        raise InvalidInput(
            f"--port {port}: not a port to connect to",
            hint="give the port that serve printed, between 1 and 65535",
        )
    bare = host.removeprefix("[").removesuffix("]")
    return Address("http", _bracketed(_EVERYWHERE.get(bare, bare), "--host", host), port)


def address_at(url: str) -> Address:
    """Return the address of a URL, without a final slash or /v1, which only some plugins need.

    >>> address_at("https://code.example/turbopilot/v1/").url
    'https://code.example/turbopilot'
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise InvalidInput(f"--url {url}: {e}", hint="as http://127.0.0.1:18080") from e
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(
            f"--url {url}: not an http or https URL", hint="as http://127.0.0.1:18080"
        )
    if parts.query or parts.fragment or parts.username is not None:
        raise InvalidInput(
            f"--url {url}: must not have a user, query or fragment",
            hint="give a key with --api-key",
        )
    _require_printable("--url", url)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Address(parts.scheme, _bracketed(parts.hostname, "--url", url), port, path)


def _bracketed(host: str, option: str, given: str) -> str:
    """Return the host as in a URL."""
    if ":" in host:
        try:
            return f"[{ipaddress.IPv6Address(host)}]".replace("%", "%25")
        except ValueError as e:
            raise InvalidInput(
                f"{option} {given}: not an IPv6 address, and only those have colons",
                hint="give the port with --port",
            ) from e
    _require_printable(option, host)
    return host


def _require_printable(option: str, text: str) -> None:
    """Raise InvalidInput unless the text can stand in a URL, a header and a setting of any format."""
    if not text or not all("!" <= c <= "~" for c in text):
        raise InvalidInput(
            f"{option} {text!r}: must be printable ASCII without spaces",
            hint="a name with other letters has an ASCII form (xn--…)",
        )
