"""API keys: who bears one, and in which header. Pure: knows nothing of Flask."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256

from turbopilot.base.errors import InvalidInput, Unauthorized

# OpenAI's clients say Bearer, Copilot's plugin says token where it asks for its token.
SCHEMES = ("bearer", "token")
# Anthropic's and Azure's clients, and some proxies.
HEADERS = ("X-Api-Key", "Api-Key")


def check_key(key: str, source: str) -> str:
    """A key that can travel in a header.

    Args:
        key: it.
        source: where it is from; the error names that, and never the key.

    Raises:
        InvalidInput: it is empty, or could not be sent.
    """
    if not key:
        raise InvalidInput(
            f"{source}: the key is empty, which would let everybody in",
            hint="give a long random one, as from: openssl rand -hex 24",
        )
    if not all("!" <= c <= "~" for c in key):
        raise InvalidInput(
            f"{source}: a key has letters, digits and signs of ASCII alone, and no spaces",
            hint="it is sent in a header; make one by: openssl rand -hex 24",
        )
    return key


def presented(header: Callable[[str], str]) -> Iterator[str]:
    """The keys that a request bears.

    Args:
        header: gives a header of it by name; "" where it has none.
    """
    scheme, _, key = header("Authorization").strip().partition(" ")
    if scheme.lower() in SCHEMES and (key := key.strip()):
        yield key
    for name in HEADERS:
        if key := header(name).strip():
            yield key


class ApiKeys:
    """Knows the keys, by their digests alone.

    Args:
        keys: all of them; without any, everybody may ask.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple(dict.fromkeys(map(_digest, keys)))

    def __bool__(self) -> bool:
        """Whether a key is wanted."""
        return bool(self._digests)

    def knows(self, key: str) -> bool:
        """Whether it is one of them. How long that takes tells nothing: all are looked at, each to its end."""
        digest = _digest(key)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found

    def check(self, header: Callable[[str], str]) -> str:
        """The key that lets a request in.

        Args:
            header: see `presented`.

        Raises:
            Unauthorized: none, or none of ours.
        """
        missing = True
        for key in presented(header):
            missing = False
            if self.knows(key):
                return key
        raise Unauthorized(
            "this server wants an API key: send it as Authorization: Bearer KEY"
            if missing
            else "the API key is not one of this server's"
        )


def _digest(key: str) -> bytes:
    return sha256(key.encode(errors="replace")).digest()
