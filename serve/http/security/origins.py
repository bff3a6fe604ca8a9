"""Access control for web pages (CORS).

Any page in a browser can send requests to 127.0.0.1. It cannot read the responses, but each request takes computing
time. Browsers send the page's origin in the `Origin` header: pages that are neither the server's own nor allowed are
refused. Programs send no Origin. Editors built on web technology send one with a scheme of EDITOR_SCHEMES, which a page
from the web cannot have. Other schemes are refused: file:// is any page on this machine's disk, such as a download, and
a browser extension (chrome-extension://) must be allowed by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from serve.http.security.hosts import ANY, parse_authority
from serve.request_headers import DEADLINE_HEADER, PRIORITY_HEADER, SESSION_HEADER
from turbopilot.base.errors import InvalidInput, OriginRefused

# Origin of a page without an address. Any page can send it, for example from a sandboxed frame.
NOBODY = "null"

METHODS = "GET, POST, OPTIONS"
# Headers that a page may send: those that the routes read, and (by prefix) those that OpenAI's SDK adds.
HEADERS = (
    "authorization", "content-type", "x-api-key", "api-key", "x-request-id",
    *map(str.lower, (SESSION_HEADER, DEADLINE_HEADER, PRIORITY_HEADER)),
)  # fmt: skip
HEADER_PREFIXES = ("x-turbopilot-", "x-stainless-")
EXPOSED = "X-TurboPilot-Truncated, X-Request-Id, Retry-After"
MAX_AGE = "600"  # seconds for which a browser may cache a preflight response

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/\s?#@,]*)", re.IGNORECASE)
_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_WEB_PORTS = {"http": 80, "https": 443}
# VS Code's webviews and its own window, Electron apps such as Obsidian, and Tauri apps.
EDITOR_SCHEMES = frozenset({"vscode-webview", "vscode-file", "app", "tauri"})


def check_origins(origins: Iterable[str], *, has_keys: bool) -> tuple[str, ...]:
    """Return the normalized origins from --cors-origin.

    Raises:
        InvalidInput: a value is not an origin, or would allow every web page without an API key.
    """
    checked = tuple(map(_checked, origins))
    if ANY in checked and len(set(checked)) > 1:
        raise InvalidInput(
            "--cors-origin * already allows all of them", hint="remove the other origins"
        )
    for everybody in (ANY, NOBODY):
        if everybody in checked and not has_keys:
            raise InvalidInput(
                f"--cors-origin {everybody}: every web page that you open could use this server",
                hint="name the pages, such as https://chat.example.com, or require a key: --api-key-file",
            )
    return checked


def _checked(origin: str) -> str:
    if origin in (ANY, NOBODY):
        return origin
    found = _ORIGIN.fullmatch(origin)
    is_named = found and (found[2] or found[1].lower() not in _WEB_PORTS)  # file:// names nothing
    if found and is_named and "*" not in found[2]:
        return origin.lower()
    raise InvalidInput(
        f"--cors-origin {origin}: not the origin of a web page",
        hint="give the scheme, host and port without a trailing slash, such as https://chat.example.com or "
        "http://localhost:3000",
    )


class Origins:
    """Origins that may use the server.

    Args:
        allowed: origins from `check_origins`.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(allowed)

    def allows(self, origin: str) -> bool:
        """Return whether a page may read responses: an editor's, or one that --cors-origin allows."""
        if is_editor(origin):
            return True
        return bool(origin) and (ANY in self._allowed or origin.lower() in self._allowed)

    def check(self, origin: str, host: str) -> None:
        """Raise OriginRefused if a request comes from a web page that is neither allowed nor from this server.

        Args:
            origin: the Origin header, or "".
            host: the Host header.
        """
        if origin and not self.allows(origin) and not is_same(origin, host):
            raise OriginRefused(
                f"the web page {origin[:100]!r} may not use this server; to allow it, start the server with "
                "--cors-origin ORIGIN"
            )

    def headers(self, origin: str) -> dict[str, str]:
        """Return the CORS headers of a response; empty if the page is not allowed."""
        if not self.allows(origin):
            return {}
        who = ANY if ANY in self._allowed else origin
        return {"Access-Control-Allow-Origin": who, "Access-Control-Expose-Headers": EXPOSED}

    def preflight(self, origin: str, header: Callable[[str], str]) -> dict[str, str]:
        """Return the additional headers of a preflight response; `header` returns a request header by name, or ""."""
        if not self.allows(origin):
            return {}
        asked = header("Access-Control-Request-Headers")
        found = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": ", ".join(allowed_headers(asked)),
            "Access-Control-Max-Age": MAX_AGE,
        }
        # Chrome sends this header if a page from the internet wants to access a private network or this machine.
        if header("Access-Control-Request-Private-Network").lower() == "true":
            found["Access-Control-Allow-Private-Network"] = "true"
        return found


def allowed_headers(asked: str) -> tuple[str, ...]:
    """Return the headers that a page may send: HEADERS, and requested ones with a prefix in HEADER_PREFIXES."""
    names = (name.strip().lower() for name in asked.split(",")[:100])
    more = (n for n in names if n.startswith(HEADER_PREFIXES) and _TOKEN.fullmatch(n))
    return tuple(dict.fromkeys((*HEADERS, *more)))


def is_editor(origin: str) -> bool:
    """Return whether an origin has an editor's scheme; False if it cannot be parsed."""
    found = _ORIGIN.fullmatch(origin)
    return found is not None and found[1].lower() in EDITOR_SCHEMES


def is_same(origin: str, host: str) -> bool:
    """Return whether a page was loaded from this server: the same host name and port.

    http and https count as the same, because behind a TLS proxy the scheme is the proxy's.
    """
    found, asked = _ORIGIN.fullmatch(origin), parse_authority(host)
    page = parse_authority(found[2]) if found else None
    if not (found and page and asked):
        return False
    usual = _WEB_PORTS.get(found[1].lower())
    if usual is None:
        return False
    return page[0] == asked[0] and (page[1] or usual) == (asked[1] or usual)
