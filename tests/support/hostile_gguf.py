"""Model files with faults in metadata and tensor types, which llama.cpp would not survive."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from turbopilot.formats.ggml_types import GGML_TYPES
from turbopilot.formats.gguf.file import read_part

Encoded = bytes
"""A value of GGUF metadata: its type and its bytes."""

_CODES: Final = {
    "u8": (0, "B"),
    "i8": (1, "b"),
    "u32": (4, "I"),
    "i32": (5, "i"),
    "f32": (6, "f"),
    "u64": (10, "Q"),
}
_TYPE_IDS: Final = {name: number for number, (name, _, _) in GGML_TYPES.items()}


def number(kind: str, value: float) -> Encoded:
    n, code = _CODES[kind]
    return struct.pack(f"<I{code}", n, value)


def numbers(kind: str, values: list[float]) -> Encoded:
    n, code = _CODES[kind]
    return struct.pack(f"<IIQ{len(values)}{code}", 9, n, len(values), *values)


def text(value: str) -> Encoded:
    return struct.pack("<I", 8) + _string(value)


def texts(values: list[str]) -> Encoded:
    return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(_string, values))


def _string(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def changed(
    source: Path,
    target: Path,
    keys: Mapping[str, Encoded | None] | None = None,
    types: Mapping[str, str] | None = None,
    shift: int = 0,
) -> Path:
    """Copy a model with other values of some keys (None removes a key) and other types of some tensors.

    A tensor's bytes stay as they are. `shift` moves all tensors by so many bytes, as an alignment below 32 allows.
    """
    header, layout = read_part(source)
    raw, keys = source.read_bytes(), keys or {}
    kept = [raw[a:b] for key, (a, b) in layout.keys.items() if key not in keys]
    kept += [_string(key) + value for key, value in keys.items() if value is not None]
    infos = bytearray(raw[slice(*layout.infos)])
    for name, type_name in (types or {}).items():
        at = infos.index(_string(name)) + len(_string(name))
        (n_dims,) = struct.unpack_from("<I", infos, at)
        struct.pack_into("<I", infos, at + 4 + 8 * n_dims, _TYPE_IDS[type_name])
    counts = struct.pack("<QQ", len(header.tensors), len(kept))
    head = raw[:8] + counts + b"".join(kept) + infos
    padding = bytes(-len(head) % 32 + shift)
    target.write_bytes(head + padding + raw[layout.data :] + bytes(64))
    return target
