"""Which web pages may use the server. Pure: knows nothing of Flask.

A page in the browser can send requests to 127.0.0.1 unasked: it cannot read the answers, but they cost as much as
any. Browsers say which page it is, in `Origin`. Pages that are neither the server's own nor allowed are
refused. Programs send no Origin. Editors made of web technology send one of a scheme of their own
(vscode-webview://, vscode-file://, app://, tauri://), which no page from the web can have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from serve.http.security.authority import parse_authority
from turbopilot.base.errors import InvalidInput, OriginRefused

ANY = "*"
# What a browser says of a page without an address. Any page can make one: a frame in a sandbox is enough.
NOBODY = "null"

METHODS = "GET, POST, OPTIONS"
# What a page may set: what the routes read, and what OpenAI's SDK sends beside it.
HEADERS = (
    "authorization", "content-type", "x-api-key", "api-key", "x-request-id",
    "x-turbopilot-session", "x-turbopilot-deadline-ms",
)  # fmt: skip
HEADER_PREFIXES = ("x-turbopilot-", "x-stainless-")
EXPOSED = "X-TurboPilot-Truncated, X-Request-Id, Retry-After"
# How long a browser need not ask again, in seconds.
MAX_AGE = "600"

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/\s?#@,]*)", re.IGNORECASE)
_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_WEB_PORTS = {"http": 80, "https": 443}


def check_origins(origins: Iterable[str], *, has_keys: bool) -> tuple[str, ...]:
    """Origins that an operator allows, as they are compared.

    Raises:
        InvalidInput: one is no origin, or it would let every web page in.
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
                hint="name the pages, as https://chat.example.com, or have them give a key: --api-key-file",
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
        f"--cors-origin {origin}: no origin of a web page",
        hint="give scheme, name and port as the browser shows them, with no slash at the end: "
        "https://chat.example.com or http://localhost:3000",
    )


class Origins:
    """Knows the pages that may ask.

    Args:
        allowed: by `check_origins`.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(allowed)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._allowed)

    def allows(self, origin: str) -> bool:
        """Whether a page may ask and read."""
        return bool(origin) and (ANY in self._allowed or origin.lower() in self._allowed)

    def check(self, origin: str, host: str) -> None:
        """Refuse a request of a foreign web page.

        Args:
            origin: the request's; "" is none.
            host: the name and port under which the server was asked.

        Raises:
            OriginRefused: it is one.
        """
        if not origin or self.allows(origin):
            return
        if is_web_page(origin) and not is_same(origin, host):
            raise OriginRefused(
                f"the web page {origin[:100]!r} may not use this server; its operator can allow it: "
                "turbopilot serve --cors-origin ORIGIN"
            )

    def headers(self, origin: str) -> dict[str, str]:
        """What an answer tells the browser: nothing, where the page is not allowed."""
        if not self.allows(origin):
            return {}
        who = ANY if ANY in self._allowed else origin
        return {"Access-Control-Allow-Origin": who, "Access-Control-Expose-Headers": EXPOSED}

    def preflight(self, origin: str, header: Callable[[str], str]) -> dict[str, str]:
        """What a browser that asks before it asks is told, beside `headers`.

        Args:
            origin: the page.
            header: gives a header of the request by name; "" where it has none.
        """
        if not self.allows(origin):
            return {}
        told = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": ", ".join(
                allowed_headers(header("Access-Control-Request-Headers"))
            ),
            "Access-Control-Max-Age": MAX_AGE,
        }
        # Chrome wants to hear that a page of the internet may reach into the machine or its network.
        if header("Access-Control-Request-Private-Network").lower() == "true":
            told["Access-Control-Allow-Private-Network"] = "true"
        return told


def allowed_headers(asked: str) -> tuple[str, ...]:
    """Those that a page may send: ours, and of those that it asks for the ones of allowed families."""
    names = (name.strip().lower() for name in asked.split(",")[:100])
    more = (n for n in names if n.startswith(HEADER_PREFIXES) and _TOKEN.fullmatch(n))
    return tuple(dict.fromkeys((*HEADERS, *more)))


def is_web_page(origin: str) -> bool:
    """Whether an Origin is one that a page from the web can have; one that nobody can read counts as such."""
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
    return page.host == asked.host and (page.port or usual) == (asked.port or usual)
