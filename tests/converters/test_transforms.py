"""Row orders use every row once, and equal slow loops written from the model's code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.spec import Dims
from converters.transforms import codegen_qkv, gptj_rotary, rotary_half_split, then


@st.composite
def geometries(draw: st.DrawFn) -> Dims:
    heads = 4 * draw(st.integers(1, 4))
    size = 2 * draw(st.integers(1, 16))
    return Dims(
        n_embd=heads * size, n_layer=1, n_head=heads, n_head_kv=heads, n_inner=8, n_vocab=8, n_ctx=8,
        rotary_dim=2 * draw(st.integers(0, size // 2)),
    )  # fmt: skip


@given(geometries())
def test_rotary_order_equals_a_slow_loop(d: Dims) -> None:
    slow = []
    for head in range(d.n_head):
        base = head * d.head_dim
        slow += [base + 2 * j for j in range(d.rotary_dim // 2)]
        slow += [base + 2 * j + 1 for j in range(d.rotary_dim // 2)]
        slow += [base + j for j in range(d.rotary_dim, d.head_dim)]
    order = gptj_rotary(d).tolist()
    assert order == slow
    assert sorted(order) == list(range(d.n_embd)), "every row is used once"


@given(geometries())
def test_half_split_rotation_of_reordered_rows_equals_rotation_of_pairs(d: Dims) -> None:
    """Compare NeoX's rotation of reordered rows with GPT-J's rotation, reordered: the purpose of the order."""
    rng = np.random.default_rng(0)
    x, r = rng.normal(size=d.head_dim), d.rotary_dim
    angle = rng.uniform(0, 6, size=r // 2)
    cos, sin = np.cos(angle), np.sin(angle)
    pairs = x.copy()
    pairs[0:r:2], pairs[1:r:2] = x[0:r:2] * cos - x[1:r:2] * sin, x[1:r:2] * cos + x[0:r:2] * sin
    order = rotary_half_split(1, d.head_dim, r)
    y = x[order]
    halves = y.copy()
    halves[: r // 2] = y[: r // 2] * cos - y[r // 2 : r] * sin
    halves[r // 2 : r] = y[r // 2 : r] * cos + y[: r // 2] * sin
    np.testing.assert_allclose(halves, pairs[order])


@given(geometries())
def test_codegen_rows_are_each_used_once(d: Dims) -> None:
    rows = np.concatenate([codegen_qkv(w, 4)(d) for w in "qkv"])
    assert sorted(rows.tolist()) == list(range(3 * d.n_embd))


@given(geometries())
def test_codegen_rows_equal_transformers_reshape(d: Dims) -> None:
    """Compare with modeling_codegen.py: reshape to (mp_num, -1), split into q, v, k of local_dim, in block order."""
    fused = np.arange(3 * d.n_embd).reshape(4, -1)
    local = d.n_embd // 4
    for i, w in enumerate("qvk"):
        expected = fused[:, i * local : (i + 1) * local].reshape(-1)
        assert codegen_qkv(w, 4)(d).tolist() == expected.tolist()


@given(geometries())
def test_then_composes_two_row_orders(d: Dims) -> None:
    x = np.arange(3 * d.n_embd)
    q = codegen_qkv("q", 4)
    assert (x[then(q, gptj_rotary)(d)] == x[q(d)][gptj_rotary(d)]).all()
    assert then(q, None) is q


@pytest.mark.parametrize(
    ("expression", "value"),
    [("D", 8), ("3*D", 24), ("D + 2*K*d", 12), ("V", 10), ("2 * F", 64), ("7", 7)],
)
def test_size_expressions_are_evaluated(expression: str, value: int) -> None:
    d = Dims(n_embd=8, n_layer=1, n_head=4, n_head_kv=1, n_inner=32, n_vocab=10, n_ctx=16)
    assert d.size(expression) == value
