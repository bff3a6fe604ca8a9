"""Mutations of bytes and of JSON values, repeatable by their random generator."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any, Final

INTEGERS: Final = (
    0, 1, -1, 2, 3, 7, 8, 31, 32, 127, 128, 255, 256, 1000, 65535, 65536, 1_000_000, 2**30, 2**31 - 1, 2**31, 2**32 - 1,
    2**32, 2**33, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -2, -(2**31), -(2**63),
)  # fmt: skip
FLOATS: Final = (
    0.0, -0.0, 1.0, -1.0, 1e-5, 1e-45, 5e-324, 1e308, 1.7e38, -1e308, math.inf, -math.inf, math.nan,
)  # fmt: skip
TEXTS: Final = (
    "", "x", "\0", "../../evil", "/etc/passwd", "a" * 10_000, "\x1b[2J\x1b]0;evil\x07", "\u202e\ud800", "é" * 300,
    "%s%n", "-1", "{{ 7 * 7 }}", "<|endoftext|>", "\r\n", "gguf", "NaN", "llama", "qwen2", "gpt2", "model.safetensors",
)  # fmt: skip
_DEPTH: Final = 100_000


def bytes_mutated(rng: Random, data: bytes) -> bytes:
    """Return the data after one to three random changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_BYTE_CHANGES)(rng, data)
    return data


def _span(rng: Random, data: bytes) -> tuple[int, int]:
    """Return a random part, most often near the beginning, which holds the header."""
    top = max(1, len(data))
    start = int(top * rng.random() ** rng.choice((1, 4, 8)))
    return start, min(top, start + int(2 ** rng.uniform(0, 12)))


def _flip(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if data else 0):
        changed[_span(rng, data)[0]] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _number(rng: Random, data: bytes) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    raw = (rng.choice(INTEGERS) & (1 << 8 * size) - 1).to_bytes(size, "little")
    start = _span(rng, data)[0]
    return data[:start] + raw + data[start + size :]


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: _span(rng, data)[0]]


def _remove(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _repeat(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 50)) + data[end:]


def _insert(rng: Random, data: bytes) -> bytes:
    start = _span(rng, data)[0]
    return data[:start] + rng.randbytes(rng.choice((1, 4, 8, 100))) + data[start:]


def _fill(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + bytes([rng.choice((0, 255, 32, 65))]) * (end - start) + data[end:]


def _append(rng: Random, data: bytes) -> bytes:
    return data + rng.randbytes(rng.choice((1, 8, 1000)))


_BYTE_CHANGES: Final[tuple[Callable[[Random, bytes], bytes], ...]] = (
    _flip, _flip, _number, _number, _cut, _remove, _repeat, _insert, _fill, _append,
)  # fmt: skip


def scalar(rng: Random) -> Any:
    """Return a number, text or constant at a limit of something."""
    kind = rng.randrange(10)
    if kind < 4:
        return rng.choice(INTEGERS)
    if kind < 6:
        return rng.choice(FLOATS)
    if kind < 8:
        return rng.choice(TEXTS)
    return rng.choice((None, True, False, 10**400, 0.1 + rng.random(), rng.randrange(5000)))


def junk(rng: Random, depth: int = 0) -> Any:
    """Return a JSON value of any kind."""
    kind = rng.randrange(6 if depth < 3 else 4)
    if kind == 4:
        return [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 5:
        return {str(scalar(rng)): junk(rng, depth + 1) for _ in range(rng.randrange(4))}
    return scalar(rng)


def json_mutated(rng: Random, value: Any) -> Any:
    """Return a copy with one to three changes at random places."""
    value = json.loads(json.dumps(value))  # unlike copy.deepcopy, it needs no stack
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holder, key = _place(rng, value)
        if holder is None:
            return junk(rng)
        change = rng.randrange(10)
        if change < 6:
            holder[key] = _near(rng, holder[key]) if change < 4 else junk(rng)
        elif change == 6:
            del holder[key]
        elif change == 7 and isinstance(holder, list):
            holder[key:key] = [holder[key]] * rng.choice((1, 2, 1000))
        elif isinstance(holder, dict):
            other = rng.choice(list(holder))
            holder[key], holder[other] = holder[other], holder[key]
        else:
            other = rng.randrange(len(holder))
            holder[key], holder[other] = holder[other], holder[key]
    return value


def _place(rng: Random, value: Any) -> tuple[Any, Any]:
    """Return a container and a key of it; the outer ones are likelier than their many leaves."""
    holder, key = None, None
    while isinstance(value, (dict, list)) and value:
        if holder is not None and rng.random() < 0.3:
            break
        holder, key = (
            value,
            rng.choice(list(value) if isinstance(value, dict) else range(len(value))),
        )
        value = holder[key]
    return holder, key


def _near(rng: Random, value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((*INTEGERS, value + 1, value - 1, 2 * value, -value, value * 1000))
    if isinstance(value, float):
        return rng.choice((*FLOATS, value * 10, -value))
    if isinstance(value, str):
        return rng.choice((*TEXTS, value * 2, value[1:], value + "\0", value.upper(), value * 100))
    return [] if isinstance(value, list) else {}


def json_bytes(rng: Random, value: Any) -> bytes:
    """Return JSON text, now and then with faults of the text itself."""
    text = json.dumps(value)
    kind = rng.randrange(16)
    if kind == 0:
        return bytes_mutated(rng, text.encode())
    if kind == 1:
        return rng.choice((b"[" * _DEPTH, b'{"a":' * _DEPTH, b"[" * 900 + b"]" * 900))
    if kind == 2:
        return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xff")) + text.encode()
    if kind == 3 and text.startswith("{"):
        return b"{" + text[1:-1].encode() + b", " + text[1:].encode()  # every key twice
    if kind == 4:
        return text.replace("1", "1" * 5000, 1).encode()
    return text.encode()


def packed(rng: Random, code: str) -> bytes:
    """Return a little-endian number of a `struct` code, at a limit of something."""
    if code in "fd":
        value = rng.choice(FLOATS)
        return struct.pack(
            "<" + code, 3e38 if code == "f" and 3e38 < abs(value) < math.inf else value
        )
    size = struct.calcsize("<" + code)
    return (rng.choice(INTEGERS) & (1 << 8 * size) - 1).to_bytes(size, "little")
