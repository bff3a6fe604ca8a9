"""Multi-head latent attention (MLA), as in DeepSeek-V2, for llama.cpp's `deepseek2` graph.

All heads share what the KV cache keeps: C compressed dimensions and R rotated ones. A head of q has N dimensions that
are not rotated, then R rotated ones, and a value has W. `kv_b_proj` decompresses keys and values, fused head by head;
the graph needs the keys transposed in each head, (H, C, N), and the values, (H, W, C). Queries may be compressed too,
to Q dimensions. Both rotate neighbouring pairs. Of YaRN, the graph supports `mscale` = `mscale_all_dim`; for historical
reasons, its key is a tenth of that.

Source: transformers `modeling_deepseek_v2.py`; llama.cpp `src/models/deepseek2.cpp` and `conversion/deepseek.py`.
"""

from __future__ import annotations

from dataclasses import replace

from converters.hfconfig import HfConfig, Rope
from converters.spec import Dims, Key, SourceRows, TensorSpec, copy
from converters.transforms import latent_keys, latent_values

_ATTN = "model.layers.{i}.self_attn."
_LITE = (26, 27)  # layers of models for which llama.cpp does not read `q_lora_rank`


def _rope(c: HfConfig) -> Rope:
    return c.rope(kinds=("default", "yarn"))


KEYS = (
    Key("rope.dimension_count", lambda c, d: d.rotary_dim),
    Key("rope.freq_base", lambda c, d: _rope(c).theta),
    Key("rope.scaling.type", lambda c, d: "yarn" if _rope(c).kind == "yarn" else None),
    Key("rope.scaling.factor", lambda c, d: _rope(c).factor if _rope(c).kind == "yarn" else None),
    Key("rope.scaling.original_context_length", lambda c, d: _rope(c).trained or None),
    Key("rope.scaling.yarn_log_multiplier", lambda c, d: 0.1 * _rope(c).mscale or None),
    Key("attention.q_lora_rank", lambda c, d: d.more.get("Q", 0)),
    Key("attention.kv_lora_rank", lambda c, d: d.more["C"]),
    # sizes in the KV cache, then those of a head
    Key("attention.key_length", lambda c, d: d.more["C"] + d.rotary_dim),
    Key("attention.value_length", lambda c, d: d.more["C"]),
    Key("attention.key_length_mla", lambda c, d: d.head_dim),
    Key("attention.value_length_mla", lambda c, d: d.more["W"]),
)


def _compressed(c: HfConfig) -> bool:
    return c.integer("q_lora_rank", absent=0) > 0


def _by_head(name: str, part: SourceRows, *shape: str) -> TensorSpec:
    return TensorSpec(f"blk.{{i}}.{name}.weight", (replace(part, each="H"),), ("H", *shape))


_DECOMPRESSED = SourceRows(_ATTN + "kv_b_proj.weight", ("H*N + H*W", "C"))
_Q = copy("blk.{i}.attn_q.weight", _ATTN + "q_proj.weight", "H*d", "D")
_COMPRESSED_Q = (
    copy("blk.{i}.attn_q_a.weight", _ATTN + "q_a_proj.weight", "Q", "D"),
    copy("blk.{i}.attn_q_a_norm.weight", _ATTN + "q_a_layernorm.weight", "Q"),
    copy("blk.{i}.attn_q_b.weight", _ATTN + "q_b_proj.weight", "H*d", "Q"),
)

TENSORS = (
    replace(_Q, when=lambda c: not _compressed(c)),
    *(replace(t, when=_compressed) for t in _COMPRESSED_Q),
    copy("blk.{i}.attn_kv_a_mqa.weight", _ATTN + "kv_a_proj_with_mqa.weight", "C + R", "D"),
    copy("blk.{i}.attn_kv_a_norm.weight", _ATTN + "kv_a_layernorm.weight", "C"),
    _by_head("attn_k_b", replace(_DECOMPRESSED, rows=latent_keys, transpose=True), "C", "N"),
    _by_head("attn_v_b", replace(_DECOMPRESSED, rows=latent_values), "W", "C"),
    copy("blk.{i}.attn_output.weight", _ATTN + "o_proj.weight", "D", "H*W"),
)


def check(d: Dims) -> list[str]:
    """Return problems of the heads; "G" in `Dims.more` is the config's number of key/value heads."""
    found = []
    if d.more["G"] != d.n_head:
        found.append(
            f"{d.more['G']} key/value heads; llama.cpp's graph needs one per head, {d.n_head}"
        )
    if "Q" in d.more and d.n_layer in _LITE:
        found.append(f"llama.cpp does not read q_lora_rank if there are {d.n_layer} layers")
    return found
