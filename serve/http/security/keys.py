"""API keys: their sources, and the headers that carry them."""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from turbopilot.base.errors import InvalidInput, Unauthorized

KEY_VARIABLE = "TURBOPILOT_API_KEY"
MAX_KEY_FILE_BYTES = 2**20  # larger is not a list of keys
# OpenAI's clients send Bearer, Copilot's plugin sends token when it asks for its token.
SCHEMES = ("bearer", "token")
# Anthropic's and Azure's clients, and some proxies.
HEADERS = ("X-Api-Key", "Api-Key")


def check_key(key: str, source: str) -> str:
    """Return a key if it can be sent in a header; `source` is for errors, which never show the key.

    Raises:
        InvalidInput: it is empty, or cannot be sent.
    """
    if not key:
        raise InvalidInput(
            f"{source}: the key is empty, so any client could use the server",
            hint="give a long random one, as from: openssl rand -hex 24",
        )
    if not all("!" <= c <= "~" for c in key):
        raise InvalidInput(
            f"{source}: a key can only have ASCII letters, digits and punctuation, and no spaces",
            hint="it is sent in a header; make one with: openssl rand -hex 24",
        )
    return key


def read_key_file(path: Path, warn: Callable[[str], None]) -> list[str]:
    """Read the keys of a file, at least one; `warn` gets a line if other users can read it.

    Raises:
        InvalidInput: it cannot be read, has no key, or a line is not a key.
    """
    source = f"--api-key-file {path}"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_KEY_FILE_BYTES + 1)
        text = data.decode()
    except OSError as e:
        hint = "give a file that you can read"
        raise InvalidInput(f"{source}: {e.strerror or e}", hint=hint) from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{source}: not UTF-8 text", hint="one key a line") from None
    if len(data) > MAX_KEY_FILE_BYTES:
        raise InvalidInput(f"{source}: too large for a list of keys", hint="one key a line")
    lines = ((n, line.strip()) for n, line in enumerate(text.splitlines(), 1))
    keys = [
        check_key(line, f"{path}, line {n}")
        for n, line in lines
        if line and not line.startswith("#")
    ]
    if not keys:
        raise InvalidInput(
            f"{source}: the file contains no key, so any client could use the server",
            hint=f"openssl rand -hex 24 > {path}",
        )
    # Only a warning: the secret files of containers are often readable by all.
    if os.name == "posix" and mode & (stat.S_IRGRP | stat.S_IROTH):
        warn(f"warning  {path}: other users of this machine can read the keys; chmod 600 {path}")
    return keys


def presented(header: Callable[[str], str]) -> Iterator[str]:
    """Yield the keys that a request carries; `header` returns one of its headers by name, or ""."""
    scheme, _, key = header("Authorization").strip().partition(" ")
    if scheme.lower() in SCHEMES and (key := key.strip()):
        yield key
    for name in HEADERS:
        if key := header(name).strip():
            yield key


class ApiKeys:
    """The server's keys, as digests."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(dict.fromkeys(map(_digest, keys)))

    def knows(self, key: str) -> bool:
        """Whether it is one of the keys, found in a time that does not depend on the key."""
        digest = _digest(key)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found

    def check(self, header: Callable[[str], str]) -> str:
        """Return the key that lets a request in; for `header` see `presented`.

        Raises:
            Unauthorized: it carries no key of this server.
        """
        keys = list(presented(header))
        for key in keys:
            if self.knows(key):
                return key
        raise Unauthorized(
            "the API key is not one of this server's"
            if keys
            else "this server requires an API key: send it as Authorization: Bearer KEY"
        )


def _digest(key: str) -> bytes:
    return sha256(key.encode(errors="replace")).digest()
