"""API keys: validation, key files, and the request headers with keys."""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from turbopilot.base.errors import InvalidInput, Unauthorized

MAX_KEY_FILE_BYTES = 2**20  # a larger file is not a list of keys
# OpenAI's clients send "Bearer"; Copilot's plugin sends "token" in its token request.
SCHEMES = ("bearer", "token")
# Used by Anthropic's and Azure's clients, and by some proxies.
HEADERS = ("X-Api-Key", "Api-Key")


def check_key(key: str, source: str) -> str:
    """Return a key if it can be sent in a header. Errors name the `source`, never the key.

    Raises:
        InvalidInput: the key is empty, or has characters that cannot be sent.
    """
    if not key:
        raise InvalidInput(
            f"{source}: the key is empty, so any client could use the server",
            hint="use a long random key; create one with: openssl rand -hex 24",
        )
    if not all("!" <= c <= "~" for c in key):
        raise InvalidInput(
            f"{source}: a key can only have ASCII letters, digits and punctuation, and no spaces",
            hint="create a key with: openssl rand -hex 24",
        )
    return key


def read_key_file(path: Path, warn: Callable[[str], None]) -> list[str]:
    """Return the keys in a file. Call `warn` with a warning if other users can read the file.

    Raises:
        InvalidInput: the file cannot be read, has no key, or a line is not a valid key.
    """
    source = f"--api-key-file {path}"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_KEY_FILE_BYTES + 1)
        text = data.decode()
    except OSError as e:
        hint = "check the path and its permissions"
        raise InvalidInput(f"{source}: {e.strerror or e}", hint=hint) from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{source}: not UTF-8 text", hint="write one key per line") from None
    if len(data) > MAX_KEY_FILE_BYTES:
        raise InvalidInput(f"{source}: too large for a list of keys", hint="write one key per line")
    lines = ((n, line.strip()) for n, line in enumerate(text.splitlines(), 1))
    keys = [
        check_key(line, f"{path}, line {n}")
        for n, line in lines
        if line and not line.startswith("#")
    ]
    if not keys:
        raise InvalidInput(
            f"{source}: the file contains no key, so any client could use the server",
            hint=f"create one with: openssl rand -hex 24 > {path}",
        )
    # Only a warning: in containers, files with secrets are often readable by all users.
    if os.name == "posix" and mode & (stat.S_IRGRP | stat.S_IROTH):
        warn(
            f"warning  {path}: other users of this machine can read the keys; run chmod 600 {path}"
        )
    return keys


def presented(header: Callable[[str], str]) -> Iterator[str]:
    """Yield the API keys in a request's headers; `header` returns a header by name, or ""."""
    scheme, _, key = header("Authorization").strip().partition(" ")
    if scheme.lower() in SCHEMES and (key := key.strip()):
        yield key
    for name in HEADERS:
        if key := header(name).strip():
            yield key


class ApiKeys:
    """The server's API keys, stored as digests."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(dict.fromkeys(map(_digest, keys)))

    def knows(self, key: str) -> bool:
        """Return whether a key is one of the server's keys, in constant time."""
        digest = _digest(key)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found

    def check(self, header: Callable[[str], str]) -> str:
        """Return the valid key in a request's headers; for `header` see `presented`.

        Raises:
            Unauthorized: the request has no valid key.
        """
        keys = list(presented(header))
        for key in keys:
            if self.knows(key):
                return key
        raise Unauthorized(
            "invalid API key"
            if keys
            else "this server requires an API key: send it as Authorization: Bearer KEY"
        )


def _digest(key: str) -> bytes:
    return sha256(key.encode(errors="replace")).digest()
