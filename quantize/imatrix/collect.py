"""Sums of squares from the nodes of llama.cpp's graph. Source: llama.cpp, tools/imatrix/imatrix.cpp.

T tokens, C input channels, M matrices, K experts that each token is sent to.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from quantize.imatrix.checkpoint import Doubles, Gathered
from quantize.imatrix.matrix import Counts
from turbopilot.llama import ggml_tensor
from turbopilot.llama.ggml_tensor import F32, Ggml, GgmlTensor, name_of

_HEADS = ("output.weight", "token_embd.weight")  # the latter if it is also the head


def plain_name(name: str) -> str:
    """Return a weight's name, given that of the scheduler's copy for a device.

    >>> plain_name("CUDA0#blk.0.attn_q.weight#0")
    'blk.0.attn_q.weight'
    """
    before, _, after = name.partition("#")
    return after.partition("#")[0] if "#" in name else before


class Collector:
    """Callback of llama.cpp that adds the squares of the weights' inputs to `into`; of the head's if wanted."""

    def __init__(self, ggml: Ggml, *, process_output: bool) -> None:
        self.ggml, self.process_output = ggml, process_output
        self.into = Gathered()
        self._checked = False
        # q, k and v share one input: node addresses → its sums, within one graph
        self._sums: dict[tuple[int, ...], tuple[Doubles, Counts]] = {}

    def next_graph(self) -> None:
        """Begin another graph, in which addresses are reused."""
        self._sums.clear()

    def on_node(self, address: int, ask: bool) -> bool:
        """See `ContextParameters.on_node`."""
        if ask:
            return self.wants(address)
        self.take(address)
        return True

    def wants(self, address: int) -> bool:
        """Return whether this node multiplies by a weight to gather for."""
        if not self._checked:
            self.ggml.check_layout(address)
        node = ggml_tensor.at(address)
        op = self.ggml.op(node)
        if op not in ("MUL_MAT", "MUL_MAT_ID"):
            return False
        weight, inputs = ggml_tensor.at(node.src[0]), ggml_tensor.at(node.src[1])
        name = plain_name(name_of(weight))
        head = self.process_output and name in _HEADS and op == "MUL_MAT"
        # "… (view)" is a part of a weight, which quantizers do not know by name
        if not (name.startswith("blk.") or head) or " (" in name or inputs.type != F32:
            return False
        if not self._checked:
            for source in node.src[:2]:
                self.ggml.check_layout(source, floats=source == node.src[1])
            self._checked = True
        return True

    def take(self, address: int) -> None:
        """Add the node's input to the sums."""
        node = ggml_tensor.at(address)
        weight = ggml_tensor.at(node.src[0])
        key = (node.src[1], node.src[2] or 0, *weight.ne[2:])
        if key not in self._sums:
            self._sums[key] = self._summed(node, weight)
        self.into.add(plain_name(name_of(weight)), *self._sums[key])

    def _summed(self, node: GgmlTensor, weight: GgmlTensor) -> tuple[Doubles, Counts]:
        inputs = self.ggml.values(node.src[1])
        _, _, inner, outer = weight.ne
        if self.ggml.op(node) == "MUL_MAT_ID":
            return by_expert(inputs[0], self.ggml.values(node.src[2])[0, 0], inner)
        return dense(inputs, inner, outer)


def dense(inputs: npt.NDArray[Any], inner: int, outer: int) -> tuple[Doubles, Counts]:
    """Return the sums of squares of a matmul's input (n3, n2, T, C), in float32 over its tokens.

    `inner` and `outer` are the weight's third and fourth dimension, which divide n2 and n3. The result is (1, M·C) and
    (1,): llama-imatrix keeps one count for a stack of matrices that all see all tokens.
    """
    n3, n2, _, c = inputs.shape
    sums = np.zeros((outer, inner, c))
    for i3 in range(n3):
        for i2 in range(n2):
            x = inputs[i3, i2]
            sums[i3 % outer, i2 % inner] += np.einsum("tc,tc->c", x, x)
    count = prod(inputs.shape[:3]) // (inner * outer)
    return sums.reshape(1, -1), np.array([count], np.int64)


def by_expert(
    inputs: npt.NDArray[Any], chosen: npt.NDArray[Any], n_experts: int
) -> tuple[Doubles, Counts]:
    """Return the sums of squares (M, C) and counts (M,) of each expert's input.

    `inputs` is (T, K, C), or (T, 1, C) if all experts of a token get the same; `chosen` are the experts, (T, K).
    """
    sums = np.zeros((n_experts, inputs.shape[2]))
    counts = np.bincount(chosen.reshape(-1), minlength=n_experts).astype(np.int64)
    for expert in np.flatnonzero(counts):
        tokens, places = np.nonzero(chosen == expert)
        x = inputs[tokens, places % inputs.shape[1]]
        sums[expert] = np.einsum("tc,tc->c", x, x)
    return sums, counts
