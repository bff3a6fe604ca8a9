"""Checks of a GGUF header before llama.cpp loads the file.

`read_gguf` checks that the header is consistent with itself and with the file's size. Some other faults fail assertions
in llama.cpp, which end the process; `check_model` rejects them with an error message.
"""

from __future__ import annotations

import math

from turbopilot.base.errors import CorruptModel
from turbopilot.formats.gguf.file import GgufHeader

_LARGEST = 1 << 30  # the largest accepted integer in a model's metadata


def check_model(header: GgufHeader) -> None:
    """Raise CorruptModel if metadata or tensors that every language model has are missing or invalid."""
    arch = header.architecture
    if not arch:
        raise _corrupt(header, "general.architecture is missing")
    for key in ("context_length", "embedding_length", "block_count", "attention.head_count"):
        value = header.metadata.get(f"{arch}.{key}")
        per_layer = value if isinstance(value, list) else [value]
        numbers = [v for v in per_layer if type(v) is int and v >= 0]
        if len(numbers) != len(per_layer) or not any(numbers):
            raise _corrupt(header, f"{arch}.{key} is {_short(value)}, not a positive number")
    layers = {t.name.split(".")[1] for t in header.tensors if t.name.startswith("blk.")}
    claimed = header.metadata[f"{arch}.block_count"]
    if isinstance(claimed, int) and claimed > len(layers):
        raise _corrupt(
            header, f"block_count is {claimed:,}, but there are tensors of {len(layers):,} layers"
        )
    _check_numbers(header)
    _check_rotary(header)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise _corrupt(header, "it has no tokenizer (tokenizer.ggml.tokens)")
    if "token_embd.weight" not in {t.name for t in header.tensors}:
        raise _corrupt(header, "it has no tensor token_embd.weight")
    for key in ("token_type", "scores"):
        values = header.metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(values, list) and len(values) < len(tokens):
            raise _corrupt(
                header,
                f"tokenizer.ggml.{key} has {len(values):,} entries for {len(tokens):,} tokens",
            )


def _check_numbers(header: GgufHeader) -> None:
    """Reject numbers that make llama.cpp end the process, such as NaN for a norm's epsilon."""
    for key, value in header.metadata.items():
        if not key.startswith(f"{header.architecture}.") or isinstance(value, (str, bool, list)):
            continue
        if not math.isfinite(value) or (isinstance(value, int) and not 0 <= value <= _LARGEST):
            raise _corrupt(header, f"{key} is {value}, which is not a valid value")


def _check_rotary(header: GgufHeader) -> None:
    """Reject rotary dimensions that are odd or larger than a head: llama.cpp would write outside the head."""
    arch, m = header.architecture, header.metadata
    rotary = m.get(f"{arch}.rope.dimension_count")
    n_embd, n_head = m[f"{arch}.embedding_length"], m[f"{arch}.attention.head_count"]
    if rotary is None or not isinstance(n_embd, int) or not isinstance(n_head, int):
        return
    head = m.get(f"{arch}.attention.key_length", n_embd // n_head)
    fits = isinstance(rotary, int) and isinstance(head, int) and 0 < rotary <= head
    if not fits or (isinstance(rotary, int) and rotary % 2):  # llama.cpp hangs on 0
        what = f"{arch}.rope.dimension_count is {_short(rotary)} for heads of size {_short(head)}"
        raise _corrupt(header, what)


def _short(value: object) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _corrupt(header: GgufHeader, what: str) -> CorruptModel:
    return CorruptModel(
        f"{header.path}: the model cannot be run: {what}", hint="convert or download it again"
    )
