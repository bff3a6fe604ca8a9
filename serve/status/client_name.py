"""Short name of a client, from its User-Agent header."""

from __future__ import annotations

import re
from typing import Final

MOST_CHARACTERS: Final = 40
_COMMENT: Final = re.compile(r"\([^()]*\)")
_PRODUCT: Final = re.compile(r"([!-.0-~]+)(?:/[!-~]*)?")
# Products that browsers, and editors built on one, name in front of or behind their own.
_ENGINES: Final = frozenset((
    "Mozilla", "AppleWebKit", "Gecko", "KHTML", "Chrome", "Safari", "Electron", "Version", "Mobile",
))  # fmt: skip


def client_name(user_agent: str) -> str:
    """Return the name of the product that sends a request; "" if it does not say.

    Source: RFC 9110, 10.1.5: products with versions, and comments in parentheses.

    >>> client_name("tabby-agent/1.8.0 (linux)"), client_name("")
    ('tabby-agent', '')
    >>> client_name("Mozilla/5.0 (X11) AppleWebKit/537 (KHTML, like Gecko) Code/1.9 Chrome/1 Safari/5")
    'Code'
    >>> client_name("Mozilla/5.0 (X11) AppleWebKit/537 (KHTML, like Gecko) Chrome/1 Safari/5")
    'Chrome'
    """
    products: list[str] = _PRODUCT.findall(_COMMENT.sub(" ", user_agent[:1000]))
    own = [p for p in products if p not in _ENGINES]
    for browser in ("Chrome", "Safari"):
        own += [p for p in products if p == browser]
    return (own or products or [""])[0][:MOST_CHARACTERS]
