"""Which web pages may use the server (CORS).

Any page in a browser can send requests to 127.0.0.1: it cannot read the answers, but they cost as much as others.
Browsers name the page in `Origin`; pages that are neither the server's own nor allowed are refused. Programs send no
Origin. Editors built on web technology send one with their own scheme (vscode-webview://, vscode-file://, app://,
tauri://), which a page from the web cannot have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from serve.http.security.hosts import ANY, parse_authority
from turbopilot.base.errors import InvalidInput, OriginRefused

# Origin of a page without an address. Any page can make one: a sandboxed frame is enough.
NOBODY = "null"

METHODS = "GET, POST, OPTIONS"
# Headers that a page may send: those that the routes read, and those that OpenAI's SDK adds.
HEADERS = (
    "authorization", "content-type", "x-api-key", "api-key", "x-request-id",
    "x-turbopilot-session", "x-turbopilot-deadline-ms",
)  # fmt: skip
HEADER_PREFIXES = ("x-turbopilot-", "x-stainless-")
EXPOSED = "X-TurboPilot-Truncated, X-Request-Id, Retry-After"
MAX_AGE = "600"  # seconds for which a browser need not ask again

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/\s?#@,]*)", re.IGNORECASE)
_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_WEB_PORTS = {"http": 80, "https": 443}


def check_origins(origins: Iterable[str], *, has_keys: bool) -> tuple[str, ...]:
    """Return the normalized origins of --cors-origin.

    Raises:
        InvalidInput: one is not an origin, or would let every web page in without a key.
    """
    checked = tuple(map(_checked, origins))
    if ANY in checked and len(set(checked)) > 1:
        raise InvalidInput(
            "--cors-origin *: that is all of them already", hint="leave the other origins out"
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
        hint="give scheme, name and port as the browser shows them, without a slash at the end: "
        "https://chat.example.com or http://localhost:3000",
    )


class Origins:
    """The pages that may use the server, from `check_origins`."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(allowed)

    def allows(self, origin: str) -> bool:
        """Whether a page may use the server."""
        return bool(origin) and (ANY in self._allowed or origin.lower() in self._allowed)

    def check(self, origin: str, host: str) -> None:
        """Raise OriginRefused for a request of a page that is neither allowed nor from `host`, the server itself."""
        if not origin or self.allows(origin):
            return
        if is_web_page(origin) and not is_same(origin, host):
            raise OriginRefused(
                f"the web page {origin[:100]!r} may not use this server; its operator can allow it: "
                "turbopilot serve --cors-origin ORIGIN"
            )

    def headers(self, origin: str) -> dict[str, str]:
        """Return the CORS headers of every response: none for a page that is not allowed."""
        if not self.allows(origin):
            return {}
        who = ANY if ANY in self._allowed else origin
        return {"Access-Control-Allow-Origin": who, "Access-Control-Expose-Headers": EXPOSED}

    def preflight(self, origin: str, header: Callable[[str], str]) -> dict[str, str]:
        """Return the further headers of a preflight response; `header` returns one of the request by name, or ""."""
        if not self.allows(origin):
            return {}
        asked = header("Access-Control-Request-Headers")
        found = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": ", ".join(allowed_headers(asked)),
            "Access-Control-Max-Age": MAX_AGE,
        }
        # Chrome asks whether a page of the internet may reach this machine or its network.
        if header("Access-Control-Request-Private-Network").lower() == "true":
            found["Access-Control-Allow-Private-Network"] = "true"
        return found


def allowed_headers(asked: str) -> tuple[str, ...]:
    """Return the headers that a page may send: HEADERS, and those asked for with one of HEADER_PREFIXES."""
    names = (name.strip().lower() for name in asked.split(",")[:100])
    more = (n for n in names if n.startswith(HEADER_PREFIXES) and _TOKEN.fullmatch(n))
    return tuple(dict.fromkeys((*HEADERS, *more)))


def is_web_page(origin: str) -> bool:
    """Whether a page from the web can have an Origin; one that cannot be parsed counts as such."""
    found = _ORIGIN.fullmatch(origin)
    return not found or found[1].lower() in _WEB_PORTS


def is_same(origin: str, host: str) -> bool:
    """Whether a page was loaded from the server itself: same name, same port.

    The scheme is not compared: behind a proxy that speaks TLS it is the proxy's.
    """
    found, asked = _ORIGIN.fullmatch(origin), parse_authority(host)
    page = parse_authority(found[2]) if found else None
    if not (found and page and asked):
        return False
    usual = _WEB_PORTS.get(found[1].lower())
    return page[0] == asked[0] and (page[1] or usual) == (asked[1] or usual)
