"""Families of old ggml files as data: their headers, and the checkpoint family that matches their tensors.

ggml did not support multi-query attention, so its converter for GPTBigCode repeated the key and value head for each
query head. If all copies are equal, only one is kept, which makes StarCoder's KV cache 48 times smaller.

Source: ggml `examples/{gpt-j,starcoder,gpt-neox}/convert-h*-to-ggml.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from converters.checkpoint import Checkpoint
from converters.families import gpt_bigcode, gpt_neox, gptj
from converters.source_tensor import SourceTensor
from converters.spec import ArchSpec, SourceRows, TensorSpec
from turbopilot.formats.old_ggml import OldGgmlHeader

_BLOCK = 4 << 20  # bytes compared at once
Values = dict[str, Any]
Params = Mapping[str, int]
Sources = Mapping[str, SourceTensor]


@dataclass(frozen=True, slots=True)
class OldFamily:
    """One family of old files.

    `read` converts hyperparameters and tensors to the values of a config.json, and to tensors under `spec`'s names.
    """

    model_types: tuple[str, ...]  # values of the original's --model-type
    header: OldGgmlHeader
    spec: ArchSpec
    cuts: tuple[str, ...]  # llama.cpp's names of pre-tokenizers; see `read_vocabulary`
    read: Callable[[Params, Sources], tuple[Values, Sources]]


def _gpt2_config(p: Params) -> Values:
    same = {name: p[name] for name in ("n_embd", "n_head", "n_layer")}
    return {"vocab_size": p["n_vocab"], "n_positions": p["n_ctx"], **same}


def _gptj(p: Params, tensors: Sources) -> tuple[Values, Sources]:
    return {**_gpt2_config(p), "rotary_dim": p["n_rot"]}, tensors


def _gpt_neox(p: Params, tensors: Sources) -> tuple[Values, Sources]:
    head = p["n_embd"] // p["n_head"]
    config = {
        "vocab_size": p["n_vocab"], "max_position_embeddings": p["n_ctx"], "hidden_size": p["n_embd"],
        "num_attention_heads": p["n_head"], "num_hidden_layers": p["n_layer"],
        "intermediate_size": 4 * p["n_embd"], "use_parallel_residual": bool(p["par_res"]),
        # the next larger float, since the family multiplies it by the head size and rounds down
        "partial_rotary_factor": min(1.0, math.nextafter(p["n_rot"] / head, 1.0)),
    }  # fmt: skip
    return config, tensors


def _starcoder(p: Params, tensors: Sources) -> tuple[Values, Sources]:
    config = _gpt2_config(p)
    named = {name: replace(t, name=name) for old, t in tensors.items() for name in [_renamed(old)]}
    fused = {n: t for n, t in named.items() if ".attn.c_attn." in n}
    if all(t.shape[0] == 3 * p["n_embd"] for t in fused.values()):
        shared = p["n_head"] > 1 and all(_copies_one_head(t, p["n_head"]) for t in fused.values())
        config["multi_query"] = shared
        rows = p["n_embd"] // p["n_head"] if shared else p["n_embd"]
        for name, t in fused.items():
            del named[name]
            for i, part in enumerate("qkv"):
                n = rows if i else p["n_embd"]
                piece = _rows(t, i * p["n_embd"], n, name.replace("c_attn", part))
                named[piece.name] = piece
    head, embedding = named.get("lm_head.weight"), named.get("transformer.wte.weight")
    config["tie_word_embeddings"] = bool(head and embedding and equal_bytes(head, [embedding]))
    return config, named


_NAME = re.compile(r"model/(?:h(?P<layer>\d+)/)?(?P<path>.+?)(?:/(?P<kind>[wgb]))?")


def _renamed(name: str) -> str:
    """Return GPTBigCode's name, e.g. transformer.h.3.ln_1.weight for model/h3/ln_1/g."""
    found = _NAME.fullmatch(name)
    if not found:
        return name
    kind = "bias" if found["kind"] == "b" else "weight"
    path = found["path"].replace("/", ".")
    if path == "lm_head":
        return f"{path}.{kind}"
    layer = f"h.{found['layer']}." if found["layer"] else ""
    return f"transformer.{layer}{path}.{kind}"


def _rows(tensor: SourceTensor, start: int, n: int, name: str) -> SourceTensor:
    """Return a tensor of `n` rows, starting at row `start`."""
    row = tensor.n_bytes // tensor.shape[0]
    return replace(
        tensor, name=name, shape=(n, *tensor.shape[1:]), offset=tensor.offset + start * row
    )


def _copies_one_head(fused: SourceTensor, n_head: int) -> bool:
    """Return whether the key heads of [q | k | v] are all equal, and the value heads too."""
    n_embd = fused.shape[0] // 3
    d = n_embd // n_head
    heads = [[_rows(fused, i * n_embd + h * d, d, "") for h in range(n_head)] for i in (1, 2)]
    return all(equal_bytes(first, others) for first, *others in heads)


def equal_bytes(tensor: SourceTensor, others: Sequence[SourceTensor]) -> bool:
    """Return whether all `others`, in the same file, equal `tensor` in type, shape and bytes."""
    if any((o.dtype, o.shape) != (tensor.dtype, tensor.shape) for o in others):
        return False
    n, row_bytes = tensor.shape[0], tensor.n_bytes // tensor.shape[0]
    step = max(1, _BLOCK // row_bytes)
    with Checkpoint({}) as checkpoint:
        for start in range(0, n, step):
            stop = min(start + step, n)
            block, *blocks = (
                checkpoint.read_rows(t, start, stop).tobytes() for t in (tensor, *others)
            )
            if any(b != block for b in blocks):
                return False
    return True


def _unfused(spec: TensorSpec) -> TensorSpec:
    """Replace `c_attn` by the three tensors into which `_starcoder` splits it."""
    if not any(".c_attn." in part.source for part in spec.parts):
        return spec
    source, tail = spec.parts[0].source, spec.parts[0].shape[1:]
    parts = zip("qkv", ("D", "K*d", "K*d"), strict=True)
    return replace(
        spec,
        parts=tuple(
            SourceRows(source.replace("c_attn", part), (rows, *tail)) for part, rows in parts
        ),
    )


FAMILIES: tuple[OldFamily, ...] = (
    OldFamily(
        ("codegen",),
        OldGgmlHeader(
            ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "n_rot", "ftype"),
            repeats_n_vocab=True,
            mark="transformer.h.0.attn.q_proj.weight",
        ),
        gptj.SPEC,
        ("gpt-2",),
        _gptj,
    ),
    OldFamily(
        ("starcoder", "wizardcoder"),
        OldGgmlHeader(
            ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "ftype"),
            repeats_n_vocab=True,
            mark="model/h0/attn/c_attn/w",
        ),
        replace(gpt_bigcode.SPEC, tensors=tuple(_unfused(t) for t in gpt_bigcode.SPEC.tensors)),
        ("starcoder", "gpt-2"),  # old files of GPT-2 have the same header and names
        _starcoder,
    ),
    OldFamily(
        ("stablecode",),
        OldGgmlHeader(
            ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "n_rot", "par_res", "ftype"),
            repeats_n_vocab=False,
            mark="gpt_neox.layers.0.attention.query_key_value.weight",
        ),
        gpt_neox.SPEC,
        ("starcoder", "gpt-2"),  # "starcoder" for StableCode, "gpt-2" for GPT-NeoX and Pythia
        _gpt_neox,
    ),
)
