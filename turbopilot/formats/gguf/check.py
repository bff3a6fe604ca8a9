"""Checks of a GGUF header before llama.cpp loads the file.

`read_gguf` checks that the header is consistent with itself and with the file's size. Some other faults fail assertions
in llama.cpp, which end the process; `check_model` rejects them with an error message. (`turbopilot.llama.trial` finds
those that are not known here.)
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from turbopilot.base.errors import CorruptModel, InvalidInput
from turbopilot.base.quoting import quoted
from turbopilot.formats.gguf.check_adapter import is_adapter
from turbopilot.formats.gguf.cursor import Value
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.formats.gguf.value_ranges import ANY_INTEGER, ANY_NUMBER, RANGES

_NEEDED: Final = ("context_length", "embedding_length", "block_count")
_HEADS: Final = "attention.head_count"  # 0 in recurrent models, which have no attention
_MOST_ARCHITECTURE: Final = 64  # characters of an architecture's name
_TENSOR_ALIGNMENT: Final = (
    32  # TENSOR_ALIGNMENT in ggml-impl.h, which ggml asserts of mapped tensors
)
# llama.cpp adds and multiplies these with float32 activations, and has no other kernels on the CPU.
_FLOAT32_NAMES: Final = re.compile(r".*(\.bias|_norm\.weight)")
# Types without a kernel for matrix products or embeddings: integers, and formats of activations.
_NOT_FOR_WEIGHTS: Final = {"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"}
_WEIGHT_NAMES: Final = re.compile(
    r"(token_embd|position_embd|output|blk\.\d+\.(attn|ffn)_[a-z_]+)\.weight"
)
_ROPE_SCALINGS: Final = ("none", "linear", "yarn", "longrope")  # LLAMA_ROPE_SCALING_TYPES
# Bytes of UTF-8. llama.cpp's SentencePiece tokenizer ends the process if it needs one that the vocabulary lacks.
_BYTES: Final = [*range(0xC0), *range(0xC2, 0xF5)]


def check_model(header: GgufHeader) -> None:
    """Raise CorruptModel if metadata or tensors that every language model has are missing or invalid.

    Raise InvalidInput if the file contains an adapter.
    """
    if is_adapter(header):
        raise InvalidInput(
            f"{header.path}: is a LoRA adapter, not a model",
            hint="give the model that it was trained on as MODEL, and the adapter with --lora",
        )
    arch = header.metadata.get("general.architecture")
    if not isinstance(arch, str) or not 0 < len(arch) <= _MOST_ARCHITECTURE:
        what = "missing" if not arch else f"{quoted(arch)}, not a name"
        raise _corrupt(header, f"general.architecture is {what}")
    has_attention = any(".attn_q" in t.name for t in header.tensors)
    for key in (*_NEEDED, _HEADS) if has_attention or not header.tensors else _NEEDED:
        if not _integers(value := header.metadata.get(f"{arch}.{key}")) or not any(
            _integers(value)
        ):
            shown = "missing" if value is None else quoted(value)
            raise _corrupt(header, f"{arch}.{key} is {shown}, not a positive number")
    scaling = header.metadata.get(f"{arch}.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        raise _corrupt(header, f"{arch}.rope.scaling.type is {quoted(scaling)}, which is not known")
    _check_layers(header)
    _check_numbers(header)
    _check_experts(header)
    _check_rotary(header)
    _check_tensors(header)
    _check_tokenizer(header)


def _integers(value: Value | None) -> list[int]:
    """Return the integers of a value that may be a list; [] if it has others."""
    each = value if isinstance(value, list) else [value]
    found = [v for v in each if type(v) is int]
    return found if len(found) == len(each) else []


def _check_numbers(header: GgufHeader) -> None:
    """Reject hyperparameters outside their plausible range, such as a negative epsilon."""
    prefix = f"{header.architecture}."
    for key, value in header.metadata.items():
        if not key.startswith(prefix):
            continue
        known = RANGES.get(key[len(prefix) :])
        each = value if isinstance(value, list) else [value]
        for v in each:
            if isinstance(v, (str, bool)) and known is None:
                continue
            wanted = known or (ANY_INTEGER if isinstance(v, int) else ANY_NUMBER)
            # Lists without a known range may mark layers with -1.
            if known is None and isinstance(value, list) and isinstance(v, int):
                continue
            kinds = (int,) if wanted.kind is int else (int, float)
            if type(v) not in kinds or not wanted.least <= float(v) <= wanted.most:
                raise _corrupt(
                    header,
                    f"{quoted(key)} is {quoted(v)}, which is not between {wanted.least:g} and {wanted.most:g}",
                )


def _check_layers(header: GgufHeader) -> None:
    """Reject counts of layers, and heads of a layer, that contradict the tensors."""
    arch, m = header.architecture, header.metadata
    names = {t.name for t in header.tensors}
    n_layers = len({name.split(".")[1] for name in names if name.startswith("blk.")})
    claimed = m[f"{arch}.block_count"]
    if not isinstance(claimed, int) or claimed > n_layers:
        raise _corrupt(
            header,
            f"block_count is {quoted(claimed)}, but there are tensors of {n_layers:,} layers",
        )
    nextn = m.get(f"{arch}.nextn_predict_layers", 0)
    if not isinstance(nextn, int) or nextn >= claimed:
        what = f"nextn_predict_layers is {quoted(nextn)}, not less than block_count ({claimed:,})"
        raise _corrupt(header, what)
    for key, tensor in (("head_count", "attn_q"), ("head_count_kv", "attn_k")):
        heads = m.get(f"{arch}.attention.{key}")
        for layer in range(claimed) if heads is not None else ():
            each = heads if isinstance(heads, list) else [heads] * claimed
            n = each[layer] if layer < len(each) else 0
            if not n and f"blk.{layer}.{tensor}.weight" in names:
                raise _corrupt(header, f"{key} is {quoted(n)} in layer {layer}, which has {tensor}")


def _check_experts(header: GgufHeader) -> None:
    """Reject a number of experts used, or of their groups, that llama.cpp asserts to be otherwise."""
    arch, m = header.architecture, header.metadata
    n = m.get(f"{arch}.expert_count", 0)
    used = _integers(m.get(f"{arch}.expert_used_count", 0)) or [0]
    groups = m.get(f"{arch}.expert_group_count", 0)
    if not isinstance(n, int) or not isinstance(groups, int):
        raise _corrupt(header, "expert_count or expert_group_count is a list")
    if max(used) > n or (n and not max(used)):
        raise _corrupt(header, f"expert_used_count is {max(used):,} of {n:,} experts")
    if groups and groups >= n:
        raise _corrupt(header, f"expert_group_count is {groups:,} for {n:,} experts")


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
        what = f"{arch}.rope.dimension_count is {quoted(rotary)} for heads of size {quoted(head)}"
        raise _corrupt(header, what)


def _check_tensors(header: GgufHeader) -> None:
    """Reject tensors for which ggml has no kernel, or that it cannot map."""
    if "token_embd.weight" not in {t.name for t in header.tensors}:
        raise _corrupt(header, "it has no tensor token_embd.weight")
    for t in header.tensors:
        if t.offset % _TENSOR_ALIGNMENT:
            raise _corrupt(
                header, f"tensor {quoted(t.name)} is not aligned to {_TENSOR_ALIGNMENT} bytes"
            )
        if t.type_name != "F32" and (len(t.shape) == 1 or _FLOAT32_NAMES.fullmatch(t.name)):
            raise _corrupt(header, f"tensor {quoted(t.name)} is {t.type_name}, but must be F32")
        if t.type_name in _NOT_FOR_WEIGHTS and _WEIGHT_NAMES.fullmatch(t.name):
            what = f"tensor {quoted(t.name)} is {t.type_name}, which is not a type of weights"
            raise _corrupt(header, what)


def _check_tokenizer(header: GgufHeader) -> None:
    """Reject a vocabulary without tokens or bytes, with equal tokens, or with fewer scores or types than tokens."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise _corrupt(header, "it has no tokenizer (tokenizer.ggml.tokens)")
    different = {*tokens}
    n_empty = tokens.count("")  # llama.cpp gives each of them a name
    if len(different) - bool(n_empty) + n_empty < len(tokens):
        twin = quoted(Counter(tokens).most_common(1)[0][0])
        raise _corrupt(header, f"its vocabulary has the token {twin} twice")
    if header.metadata.get("tokenizer.ggml.model") == "llama":
        missing = [
            b
            for b in _BYTES
            if f"<0x{b:02X}>" not in different and (b > 127 or chr(b) not in different)
        ]
        if missing:
            raise _corrupt(
                header, f"its SentencePiece vocabulary lacks the byte 0x{missing[0]:02X}"
            )
    kinds = {"token_type": (int,), "scores": (int, float)}
    for key, allowed in kinds.items():
        values = header.metadata.get(f"tokenizer.ggml.{key}")
        if values is None:
            continue
        if not isinstance(values, list) or (values and type(values[0]) not in allowed):
            raise _corrupt(
                header, f"tokenizer.ggml.{key} is {quoted(values)}, not a list of numbers"
            )
        if len(values) < len(tokens):
            raise _corrupt(
                header,
                f"tokenizer.ggml.{key} has {len(values):,} entries for {len(tokens):,} tokens",
            )


def _corrupt(header: GgufHeader, what: str) -> CorruptModel:
    return CorruptModel(
        f"{header.path}: the model cannot be run: {what}", hint="convert or download it again"
    )
