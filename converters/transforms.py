"""Row orders: functions that return the source row of each target row. For the letters in shapes, see `spec`."""

from __future__ import annotations

import numpy as np

from converters.spec import Dims, IntArray, RowOrder


def rotary_half_split(n_heads: int, head_dim: int, rotary_dim: int) -> IntArray:
    """Reorder interleaved rotary pairs to half-split: each head's first R rows x0 y0 x1 y1 … → x0 x1 … y0 y1 ….

    GPT-J rotates the pairs (2j, 2j+1), phi2's graph the pairs (j, j + R/2).
    Source: transformers modeling_gptj.py `rotate_every_two`; ggml `GGML_ROPE_TYPE_NEOX`.

    >>> rotary_half_split(1, 6, 4).tolist()
    [0, 2, 1, 3, 4, 5]
    """
    head = np.concatenate(
        (np.arange(0, rotary_dim, 2), np.arange(1, rotary_dim, 2), np.arange(rotary_dim, head_dim))
    )
    return (np.arange(n_heads)[:, None] * head_dim + head).reshape(-1)


def gptj_rotary(dims: Dims) -> IntArray:
    """Reorder GPT-J's q or k, (D, …), to half-split."""
    return rotary_half_split(dims.n_head, dims.head_dim, dims.rotary_dim)


def codegen_qkv(which: str, blocks: int) -> RowOrder:
    """Return the row order that selects q, k or v, D rows, from CodeGen's fused `qkv_proj` (3·D, D).

    The matrix has one block of 3·D/blocks rows for each TPU core used in training; a block is [q | v | k].
    Source: transformers modeling_codegen.py, `mp_num`.
    """
    place = "qvk".index(which)

    def rows(dims: Dims) -> IntArray:
        local = dims.n_embd // blocks
        block = np.arange(blocks)[:, None] * 3 * local
        return (block + place * local + np.arange(local)).reshape(-1)

    return rows


def interleave(n_heads: int, head_dim: int) -> IntArray:
    """Reorder half-split rotary pairs to interleaved, over the whole head: x0 … y0 … → x0 y0 x1 y1 ….

    The llama graph rotates the pairs (2j, 2j+1), transformers' Llama the pairs (j, j + d/2).
    Source: transformers modeling_llama.py `rotate_half`; ggml `GGML_ROPE_TYPE_NORMAL`.

    >>> interleave(1, 4).tolist()
    [0, 2, 1, 3]
    """
    head: IntArray = np.arange(head_dim).reshape(2, head_dim // 2).T.reshape(-1)
    return (np.arange(n_heads)[:, None] * head_dim + head).reshape(-1)


def llama_q(dims: Dims) -> IntArray:
    """Reorder Llama's q, (H·d, …), to interleaved."""
    return interleave(dims.n_head, dims.head_dim)


def llama_k(dims: Dims) -> IntArray:
    """Reorder Llama's k, (K·d, …), to interleaved."""
    return interleave(dims.n_head_kv, dims.head_dim)


def qkv_by_head(dims: Dims) -> IntArray:
    """Reorder rows fused head by head, (H, [q | k | v], d), to [all q | all k | all v].

    Source: transformers modeling_gpt_neox.py (`query_key_value`) and modeling_gpt_bigcode.py (`c_attn`,
    multi-head), the view before the split.

    >>> qkv_by_head(Dims(2, 1, 2, 2, 8, 8, 8)).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    rows: IntArray = np.arange(3 * dims.n_head * dims.head_dim)
    rows = rows.reshape(dims.n_head, 3, dims.head_dim).swapaxes(0, 1)
    return rows.reshape(-1)


def first_half(dims: Dims) -> IntArray:
    """Select the gate, F rows, from [gate | up], (2·F, …)."""
    return np.arange(dims.n_inner)


def second_half(dims: Dims) -> IntArray:
    """Select up, F rows, from [gate | up], (2·F, …)."""
    return np.arange(dims.n_inner, 2 * dims.n_inner)


def then(first: RowOrder, second: RowOrder | None) -> RowOrder:
    """Return the row order that applies `first`, then `second` to the result."""
    return (lambda dims: first(dims)[second(dims)]) if second else first


def latent_keys(dims: Dims) -> IntArray:
    """Select the keys, H·N rows, from DeepSeek-V2's `kv_b_proj`, (H, [key | value], …).

    Source: transformers modeling_deepseek_v2.py, `expand_kv`.

    >>> latent_keys(Dims(8, 1, 2, 1, 8, 8, 8, more={"N": 1, "W": 2})).tolist()
    [0, 3]
    """
    return _of_each_head(dims, 0, dims.more["N"])


def latent_values(dims: Dims) -> IntArray:
    """Select the values, H·W rows, from DeepSeek-V2's `kv_b_proj`."""
    return _of_each_head(dims, dims.more["N"], dims.more["W"])


def _of_each_head(dims: Dims, start: int, size: int) -> IntArray:
    head = np.arange(dims.n_head)[:, None] * (dims.more["N"] + dims.more["W"])
    rows: IntArray = (head + start + np.arange(size)).reshape(-1)
    return rows
