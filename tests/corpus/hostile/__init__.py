"""Inputs that once broke a promise, as small edits of honest files; scripts/attack_files and attack_server use them.

`schemas.json` holds JSON schemas whose grammars can be read in exponentially many ways.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

SCHEMAS: Final[dict[str, Any]] = json.loads((Path(__file__).parent / "schemas.json").read_text())

CONFIG_EDITS: Final[tuple[dict[str, Any], ...]] = (
    {"num_hidden_layers": 2**53},  # over 20 s and 765 MB in a dry run
    {"num_hidden_layers": 10**6},
    {"rms_norm_eps": 1e308},
    {"rms_norm_eps": 10**400},
    {"architectures": 3},
)
DEEP_CONFIG: Final = b'{"a":' * 100_000
"""RecursionError in `verify --against`."""

_UINT32, _FLOAT32, _STRING, _ARRAY = 4, 6, 8, 9


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: str, kind: int, value: bytes) -> bytes:
    """Return a key of a GGUF file's metadata."""
    return _text(key.encode()) + struct.pack("<I", kind) + value


def gguf_edits(architecture: str, n_tokens: int) -> Iterator[tuple[str, bytes]]:
    """Yield (key, pair as in the file) of edits, each of which broke a promise."""
    tokens = struct.pack("<IQ", _STRING, n_tokens) + _text(b"Return") * n_tokens
    yield "tokenizer.ggml.tokens", pair("tokenizer.ggml.tokens", _ARRAY, tokens)  # GGML_ASSERT
    count = struct.pack("<IQI", _UINT32, 1, 2**32 - 2)
    yield "split.count", pair("split.count", _ARRAY, count)  # TypeError
    base = f"{architecture}.rope.freq_base"
    yield base, pair(base, _FLOAT32, struct.pack("<f", -1.0))  # NaN logits, which is 500
    for template in CHAT_TEMPLATES:
        key = "tokenizer.chat_template"
        yield key, pair(key, _STRING, _text(template.encode()))


CHAT_TEMPLATES: Final = (
    "{{" * 5000,  # RecursionError, 500 and 100 kB of log
    "{{ lipsum(n=10**6) }}",  # no end
    "{{ 'a' * 10**10 }}",
    "{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}{% endfor %}",
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(40) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
)
