"""Model files with faults in metadata and tensor types, which llama.cpp would not survive."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from turbopilot.formats.ggml_types import GGML_TYPES, n_bytes
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


def numbers(kind: str, values: Sequence[float]) -> Encoded:
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

    A tensor with another type keeps its first bytes. `shift` is added to the position of each tensor, as an alignment
    below 32 allows.
    """
    header, layout = read_part(source)
    raw, keys, types = source.read_bytes(), keys or {}, types or {}
    kept = [raw[a:b] for key, (a, b) in layout.keys.items() if key not in keys]
    kept += [_string(key) + value for key, value in keys.items() if value is not None]
    infos, data = b"", b""
    for t in header.tensors:
        type_name = types.get(t.name, t.type_name)
        dims = struct.pack(f"<I{len(t.shape)}Q", len(t.shape), *t.shape)
        infos += _string(t.name) + dims + struct.pack("<IQ", _TYPE_IDS[type_name], len(data))
        content = raw[t.offset :][: n_bytes(type_name, t.n_weights)]
        data += content + bytes(-len(content) % 32)
    counts = struct.pack("<QQ", len(header.tensors), len(kept))
    head = raw[:8] + counts + b"".join(kept) + infos
    target.write_bytes(head + bytes(-len(head) % 32 + shift) + data)
    return target


def faults(
    arch: str, n_layers: int, n_tokens: int
) -> dict[str, tuple[dict[str, Encoded | None], dict[str, str], int]]:
    """Return name → keys, types and shift of faults that passed the header's check and ended llama.cpp's process."""

    def key(name: str, value: Encoded) -> tuple[dict[str, Encoded | None], dict[str, str], int]:
        return {f"{arch}.{name}": value}, {}, 0

    def kind(name: str, type_name: str) -> tuple[dict[str, Encoded | None], dict[str, str], int]:
        return {}, {name: type_name}, 0

    heads = [4] * (n_layers - 1)
    return {
        "alignment 1": ({"general.alignment": number("u32", 1)}, {}, 1),
        "alignment 8": ({"general.alignment": number("u32", 8)}, {}, 8),
        "negative epsilon": key("attention.layer_norm_epsilon", number("f32", -1)),
        "more experts used than there are": key("expert_used_count", number("u32", 2)),
        "more experts used in one layer": key("expert_used_count", numbers("u32", [0, 2, *heads[1:]])),
        "no expert used": key("expert_count", number("u32", 8)),
        "too many experts": key("expert_count", number("u32", 1025)),
        "expert groups without experts": key("expert_group_count", number("u32", 2)),
        "absurd nextn_predict_layers": key("nextn_predict_layers", number("u32", 1 << 20)),
        "no kv heads in the last layer": key("attention.head_count_kv", numbers("u32", [*heads, 0])),
        "F16 bias": kind("blk.0.attn_output.bias", "F16"),
        "I32 bias": kind("blk.0.ffn_up.bias", "I32"),
        "Q8_0 norm": kind("blk.0.attn_norm.weight", "Q8_0"),
        "BF16 norm": kind("output_norm.weight", "BF16"),
        "I16 embedding": kind("token_embd.weight", "I16"),
        "I8 embedding": kind("token_embd.weight", "I8"),
        "Q8_K matrix": kind("blk.0.attn_q.weight", "Q8_K"),
        "I16 head": kind("output.weight", "I16"),
        "scores of another kind of vocabulary": (
            {"tokenizer.ggml.model": text("llama"), "tokenizer.ggml.scores": numbers("f32", [0.0] * n_tokens)}, {}, 0,
        ),
        "equal tokens": ({"tokenizer.ggml.tokens": texts(["a"] * n_tokens)}, {}, 0),
        "unknown rope scaling": key("rope.scaling.type", text("x")),
    }  # fmt: skip
