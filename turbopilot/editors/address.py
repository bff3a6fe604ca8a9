"""Address of the server, from a host and a port or from a URL."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from turbopilot.base.errors import InvalidInput

# A server that listens on all networks is reached from this machine at these addresses.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a server.

    Attributes:
        scheme: http or https.
        host: name or IP address; IPv6 in brackets.
        port: None for the scheme's default port.
        path: prefix of every route without a final slash, such as `/turbopilot` behind a proxy.
    """

    scheme: str
    host: str
    port: int | None
    path: str = ""

    @property
    def url(self) -> str:
        """Complete URL, without a final slash.

        >>> Address("http", "[::1]", 18080).url
        'http://[::1]:18080'
        """
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.path}"


def address_of(host: str, port: int) -> Address:
    """Return the address of a server that listens on a host and port; for 0.0.0.0 and ::, this machine's address.

    >>> address_of("::1", 18080).url
    'http://[::1]:18080'
    """
    if "/" in host:
        raise InvalidInput(f"--host {host}: is a URL, not a host", hint=f"give --url {host}")
    if not 1 <= port <= 65535:
        raise InvalidInput(
            f"--port {port}: is not a valid port",
            hint="give the port that serve printed, from 1 to 65535",
        )
    bare = host.removeprefix("[").removesuffix("]")
    return Address("http", _bracketed(_EVERYWHERE.get(bare, bare), "--host", host), port)


def address_at(url: str) -> Address:
    """Return the address of a URL. A final slash or /v1 is removed; settings that need /v1 add it.

    >>> address_at("https://code.example/turbopilot/v1/").url
    'https://code.example/turbopilot'
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise InvalidInput(f"--url {url}: {e}", hint="for example http://127.0.0.1:18080") from e
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(
            f"--url {url}: is not an http or https URL", hint="for example http://127.0.0.1:18080"
        )
    if parts.query or parts.fragment or parts.username is not None:
        raise InvalidInput(
            f"--url {url}: must not contain a user, query or fragment",
            hint="give an API key with --api-key",
        )
    _require_printable("--url", url)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Address(parts.scheme, _bracketed(parts.hostname, "--url", url), port, path)


def _bracketed(host: str, option: str, given: str) -> str:
    """Return the host as it is written in a URL: IPv6 addresses in brackets."""
    if ":" in host:
        try:
            return f"[{ipaddress.IPv6Address(host)}]".replace("%", "%25")
        except ValueError as e:
            raise InvalidInput(
                f"{option} {given}: contains a colon, but is not an IPv6 address",
                hint="give the port with --port",
            ) from e
    _require_printable(option, host)
    return host


def _require_printable(option: str, text: str) -> None:
    """Raise InvalidInput if the text cannot be used in a URL, a header and every format of settings."""
    if not text or not all("!" <= c <= "~" for c in text):
        raise InvalidInput(
            f"{option} {text!r}: must be printable ASCII without spaces",
            hint="write a name with other characters in its ASCII form (xn--…)",
        )
