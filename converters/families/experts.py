"""Experts of a mixture: stacks of matrices, in the two forms that checkpoints have.

On the Hub, each expert has its own tensors, spread over the shards. transformers' classes have two tensors for all
experts, (E, 2·X, D) with the gates above the ups and (E, D, X), and save them if told so. Sizes in `Dims.more`:
E experts, U of them used for a token, X feed-forward size of one.

Source: transformers `conversion_mapping.py` (`qwen2_moe`, `mixtral`); llama.cpp `llm_graph_context::build_moe_ffn`.
llama.cpp's own converter keeps routers in F32 too: a rounded one selects other experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from converters.spec import Dims, IntArray, Key, RowOrder, SourceRows, TensorSpec, copy

EXPERTS = (
    Key("expert_count", lambda c, d: d.more["E"]),
    Key("expert_used_count", lambda c, d: d.more["U"]),
)
EXPERT_SIZE = Key("expert_feed_forward_length", lambda c, d: d.more["X"])


def experts(
    own: str,
    fused: str,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    layers: Callable[[Dims], range] | None = None,
) -> tuple[TensorSpec, ...]:
    """Return the router and the stacks of gates, ups and downs.

    Args:
        own: prefix of the names if each expert has its own tensors.
        fused: prefix of the names if all experts are in one tensor.
        names: each expert's gate, up and down.
        layers: layers with experts; by default all.
    """
    gates_and_ups = ("E", "2*X", "D")

    def stack(role: str, name: str, rows: str, columns: str, other: SourceRows) -> TensorSpec:
        part = SourceRows(f"{own}experts.{{e}}.{name}.weight", (rows, columns), each="E")
        return TensorSpec(
            f"blk.{{i}}.ffn_{role}_exps.weight", (part,), ("E", rows, columns),
            layers=layers, others=((other,),),
        )  # fmt: skip

    gate, up, down = names
    router = copy("blk.{i}.ffn_gate_inp.weight", f"{own}gate.weight", "E", "D")
    both = f"{fused}experts.gate_up_proj"
    return (
        replace(
            router, exact=True, layers=layers,
            others=((SourceRows(f"{fused}gate.weight", ("E", "D")),),),
        ),
        stack("gate", gate, "X", "D", SourceRows(both, gates_and_ups, _half(0))),
        stack("up", up, "X", "D", SourceRows(both, gates_and_ups, _half(1))),
        stack("down", down, "D", "X", SourceRows(f"{fused}experts.down_proj", ("E", "D", "X"))),
    )  # fmt: skip


def check_experts(d: Dims) -> list[str]:
    """Return a problem if more experts are used than there are, for which llama.cpp aborts."""
    used, n = d.more["U"], d.more["E"]
    return [f"{used} of {n} experts are used for each token"] if used > n else []


def _half(which: int) -> RowOrder:
    """Return the rows of the gates (0) or the ups (1) of all experts, E·X of E·2·X rows."""

    def rows(d: Dims) -> IntArray:
        size = d.more["X"]
        first = np.arange(d.more["E"])[:, None] * 2 * size + which * size
        found: IntArray = (first + np.arange(size)).reshape(-1)
        return found

    return rows
