"""Files of the prefix cache.

The files hold tokens and KV states of the user's code, so only the user may read them. Format of a file:

    magic (8 bytes) · identity (16 ASCII) · number of tokens, bytes of the state (8 bytes each, little-endian)
    · SHA-256 of the rest (32 bytes) · tokens (4 bytes each) · state

llama.cpp does not validate a state, so the digest is checked first and a damaged file never reaches it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from turbopilot.base.atomic import replacing

_MAGIC = b"TPKV\0\0\0\1"
_HEAD = struct.Struct("<8s16sQQ32s")


def write_prefix(path: Path, identity: str, tokens: Sequence[int], state: bytes) -> None:
    """Write a prefix's file atomically, readable by its owner only.

    Raises:
        OSError, TurboPilotError: the file cannot be written.
    """
    ids = struct.pack(f"<{len(tokens)}i", *tokens)
    digest = hashlib.sha256(ids)
    digest.update(state)
    head = _HEAD.pack(_MAGIC, identity.encode("ascii"), len(tokens), len(state), digest.digest())
    with replacing(path, mode=0o600) as part, part.open("wb") as f:
        f.write(head)
        f.write(ids)
        f.write(state)


def read_tokens(path: Path, identity: str) -> tuple[int, ...]:
    """Return the tokens in a prefix's file, without reading its state.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is truncated or belongs to another model.
    """
    with path.open("rb") as f:
        n_tokens, _, _ = _read_head(f, path, identity)
        return struct.unpack(f"<{n_tokens}i", f.read(4 * n_tokens))


def read_prefix(path: Path, identity: str) -> bytes:
    """Return the state in a prefix's file, after checking the digest.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged or truncated, or belongs to another model.
    """
    with path.open("rb") as f:
        n_tokens, _, wanted = _read_head(f, path, identity)
        ids = f.read(4 * n_tokens)
        state = f.read()
    digest = hashlib.sha256(ids)
    digest.update(state)
    if digest.digest() != wanted:
        raise ValueError("the file is damaged")
    return state


def _read_head(f: BinaryIO, path: Path, identity: str) -> tuple[int, int, bytes]:
    data = f.read(_HEAD.size)
    if len(data) < _HEAD.size:
        raise ValueError("the file is truncated")
    magic, owner, n_tokens, n_state, digest = _HEAD.unpack(data)
    if magic != _MAGIC or owner != identity.encode("ascii"):
        raise ValueError("the file is not a cached prefix of this model")
    if path.stat().st_size != _HEAD.size + 4 * n_tokens + n_state:
        raise ValueError("the file is truncated")
    return n_tokens, n_state, digest
