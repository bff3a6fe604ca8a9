"""Keys, conditions and geometries that several families share."""

from __future__ import annotations

from converters.hfconfig import HfConfig
from converters.spec import Condition, Dims, Key, TensorSpec, copy

GEOMETRY = (
    Key("context_length", lambda c, d: d.n_ctx),
    Key("embedding_length", lambda c, d: d.n_embd),
    Key("feed_forward_length", lambda c, d: d.n_inner),
    Key("block_count", lambda c, d: d.n_layer),
    Key("attention.head_count", lambda c, d: d.n_head),
    Key("attention.head_count_kv", lambda c, d: d.n_head_kv),
)

ROPE = (
    Key("rope.dimension_count", lambda c, d: d.rotary_dim),
    Key("rope.freq_base", lambda c, d: c.rope().theta),
    Key("rope.scaling.type", lambda c, d: "linear" if c.rope().kind == "linear" else None),
    Key("rope.scaling.factor", lambda c, d: c.rope().factor if c.rope().kind == "linear" else None),
)

HEAD_SIZE = (
    Key("attention.key_length", lambda c, d: d.head_dim),
    Key("attention.value_length", lambda c, d: d.head_dim),
)


def rotates_all(d: Dims) -> list[str]:
    """Return a problem if a part of each head is not rotated, for which llama.cpp aborts."""
    if d.rotary_dim == d.head_dim:
        return []
    return [f"{d.rotary_dim} of {d.head_dim} dimensions are rotated; llama.cpp's graph rotates all"]


def layer_norm(name: str) -> Key:
    """Return the key `attention.layer_norm_epsilon`, read from the config field `name`."""
    return Key("attention.layer_norm_epsilon", lambda c, d: c.number(name, absent=1e-5))


def rms_norm(absent: float) -> Key:
    """Return the key `attention.layer_norm_rms_epsilon`, read from `rms_norm_eps`; `absent` is its default."""
    return Key(
        "attention.layer_norm_rms_epsilon", lambda c, d: c.number("rms_norm_eps", absent=absent)
    )


def multiplier(name: str, field: str) -> Key:
    """Return the key `name`, read from the config field `field`, whose default is 1."""
    return Key(name, lambda c, d: c.number(field, absent=1.0))


def is_set(field: str) -> Condition:
    """Return the condition that the config field is true."""
    return lambda c: c.flag(field, absent=False)


def gated_mlp(suffix: str, source: str, size: str) -> tuple[TensorSpec, ...]:
    """Return Llama's three matrices without biases, from the tensors that begin with `source`."""
    return (
        copy(f"blk.{{i}}.ffn_gate{suffix}.weight", source + "gate_proj.weight", size, "D"),
        copy(f"blk.{{i}}.ffn_up{suffix}.weight", source + "up_proj.weight", size, "D"),
        copy(f"blk.{{i}}.ffn_down{suffix}.weight", source + "down_proj.weight", "D", size),
    )


def gpt2_dims(c: HfConfig, *, multi_query: bool = False, rotary_dim: int = 0) -> Dims:
    """Read the geometry from GPT-2's field names; `n_inner: null` means 4·n_embd."""
    n_embd, n_head = c.integer("n_embd"), c.integer("n_head")
    return Dims(
        n_embd=n_embd, n_layer=c.integer("n_layer"), n_head=n_head, n_head_kv=1 if multi_query else n_head,
        n_inner=c.integer("n_inner", absent=4 * n_embd), n_vocab=c.integer("vocab_size"),
        n_ctx=c.integer("n_positions"), rotary_dim=rotary_dim,
    )  # fmt: skip


def modern_dims(c: HfConfig, *, fraction: float = 1.0) -> Dims:
    """Read the geometry from Llama's field names; `fraction` is the default share of each head that is rotated."""
    n_embd, n_head = c.integer("hidden_size"), c.integer("num_attention_heads")
    head_size = c.integer("head_dim", absent=0)
    head_dim = head_size or n_embd // max(1, n_head)
    return Dims(
        n_embd=n_embd, n_layer=c.integer("num_hidden_layers"), n_head=n_head,
        n_head_kv=c.integer("num_key_value_heads", absent=n_head), n_inner=c.integer("intermediate_size"),
        n_vocab=c.integer("vocab_size"), n_ctx=c.integer("max_position_embeddings"),
        rotary_dim=int(c.rope(fraction).fraction * head_dim), head_size=head_size,
    )  # fmt: skip
