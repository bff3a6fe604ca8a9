"""Address of an upstream: the base URL of its API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from turbopilot.base.errors import InvalidInput
from turbopilot.base.quoting import quoted

_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Host and path of an upstream.

    Attributes:
        host: host name or IP address, without brackets.
        root: path of the engine's own routes, without a slash at its end; OpenAI's are in `root`/v1.
    """

    host: str
    port: int
    is_secure: bool = False
    root: str = ""

    @property
    def name(self) -> str:
        """The URL, in one spelling: http://host:port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.is_secure}://{host}:{self.port}{self.root}"

    @classmethod
    def parse(cls, url: str, option: str = "--upstream") -> EngineAddress:
        """Return the address of a URL with or without /v1 at its end; raise InvalidInput if it cannot be used.

        >>> EngineAddress.parse("http://gpu-box:8000/v1").name
        'http://gpu-box:8000'
        """
        hint = "give for example http://127.0.0.1:8000/v1"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as e:
            raise InvalidInput(f"{option} {quoted(url)}: {e}", hint=hint) from None
        if parts.scheme not in _PORTS or not host or parts.query or parts.fragment:
            raise InvalidInput(f"{option} {quoted(url)}: not the URL of a server", hint=hint)
        if parts.username is not None or parts.password is not None:
            raise InvalidInput(
                f"{option}: the URL of {host} contains a user name or a password, which logs would show",
                hint="give an API key with TURBOPILOT_UPSTREAM_KEY",
            )
        root = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        return cls(host, port or _PORTS[parts.scheme], parts.scheme == "https", root)
