"""A computed prefix as a file. Reads and writes nothing else.

    magic (8 bytes) · identity (16 ASCII) · number of tokens, bytes of the state (8 bytes each, little-endian)
    · SHA-256 of what follows (32 bytes) · tokens (4 bytes each) · state

llama.cpp trusts a state's bytes, so a damaged file must never reach it: the digest is checked first.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from turbopilot.base.atomic import replacing

_MAGIC = b"TPKV\0\0\0\1"
_HEAD = struct.Struct("<8s16sQQ32s")


def write_prefix(path: Path, identity: str, tokens: Sequence[int], state: bytes) -> None:
    """Write a file that appears whole or not at all, and that its owner alone can read.

    Raises:
        OSError, TurboPilotError: it cannot be written.
    """
    ids = struct.pack(f"<{len(tokens)}i", *tokens)
    digest = hashlib.sha256(ids)
    digest.update(state)
    head = _HEAD.pack(_MAGIC, identity.encode("ascii"), len(tokens), len(state), digest.digest())
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with replacing(path, shared=True) as part, os.fdopen(os.open(part, flags, 0o600), "wb") as f:
        f.write(head)
        f.write(ids)
        f.write(state)


def read_tokens(path: Path, identity: str) -> tuple[int, ...]:
    """The tokens alone.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, another model's, or cut off.
    """
    with path.open("rb") as f:
        n_tokens, _, _ = _head(f, path, identity)
        return struct.unpack(f"<{n_tokens}i", f.read(4 * n_tokens))


def read_prefix(path: Path, identity: str) -> bytes:
    """The state, after the whole file's digest was checked. Raises as `read_tokens` does."""
    with path.open("rb") as f:
        n_tokens, _, wanted = _head(f, path, identity)
        ids = f.read(4 * n_tokens)
        state = f.read()
    digest = hashlib.sha256(ids)
    digest.update(state)
    if digest.digest() != wanted:
        raise ValueError("it is damaged")
    return state


def _head(f: BinaryIO, path: Path, identity: str) -> tuple[int, int, bytes]:
    data = f.read(_HEAD.size)
    if len(data) < _HEAD.size:
        raise ValueError("it is cut off")
    magic, owner, n_tokens, n_state, digest = _HEAD.unpack(data)
    if magic != _MAGIC or owner != identity.encode("ascii"):
        raise ValueError("it is no prefix of this model")
    if path.stat().st_size != _HEAD.size + 4 * n_tokens + n_state:
        raise ValueError("it is cut off")
    return n_tokens, n_state, digest
