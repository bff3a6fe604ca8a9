"""Sums of squared inputs, collected from the nodes of llama.cpp's graph.

Source: llama.cpp, tools/imatrix/imatrix.cpp. T tokens, C input channels, M matrices, K experts used for each token.
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

_HEADS = ("output.weight", "token_embd.weight")  # token_embd is also the head of a tied model


def plain_name(name: str) -> str:
    """Return the name of a weight, given its name or that of the scheduler's copy on a device.

    >>> plain_name("CUDA0#blk.0.attn_q.weight#0")
    'blk.0.attn_q.weight'
    """
    before, _, after = name.partition("#")
    return after.partition("#")[0] if "#" in name else before


class Collector:
    """Callback for llama.cpp's graph that adds the squared inputs of each weight to `into`.

    The output head is included only if `process_output` is set.
    """

    def __init__(self, ggml: Ggml, *, process_output: bool) -> None:
        self.ggml, self.process_output = ggml, process_output
        self.into = Gathered()
        self._checked = False
        # Addresses of inputs → their sums, within one graph: q, k and v share one input.
        self._sums: dict[tuple[int, ...], tuple[Doubles, Counts]] = {}

    def next_graph(self) -> None:
        """Start the next graph, which reuses addresses."""
        self._sums.clear()

    def on_node(self, address: int, ask: bool) -> bool:
        """Handle a node; see `ContextParameters.on_node`."""
        if ask:
            return self.wants(address)
        self.take(address)
        return True

    def wants(self, address: int) -> bool:
        """Return whether this node multiplies by a weight that gets an entry."""
        if not self._checked:
            self.ggml.check_layout(address)
        node = ggml_tensor.at(address)
        op = self.ggml.op(node)
        if op not in ("MUL_MAT", "MUL_MAT_ID"):
            return False
        weight, inputs = ggml_tensor.at(node.src[0]), ggml_tensor.at(node.src[1])
        name = plain_name(name_of(weight))
        head = self.process_output and name in _HEADS and op == "MUL_MAT"
        # "… (view)" is a part of a weight; quantizers do not look up such names.
        if not (name.startswith("blk.") or head) or " (" in name or inputs.type != F32:
            return False
        if not self._checked:
            for source in node.src[:2]:
                self.ggml.check_layout(source, floats=source == node.src[1])
            self._checked = True
        return True

    def take(self, address: int) -> None:
        """Add the squared input of a node to the sums."""
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
    """Return the sums of squares (1, M·C) and the count (1,) of a matmul's input (n3, n2, T, C).

    Squares are summed over the tokens in float32. `inner` and `outer` are the third and fourth dimension of the weight,
    which divide n2 and n3. There is one count, as in llama-imatrix, because every matrix of the stack sees all tokens.
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
    """Return the sums of squares (M, C) and the counts (M,) of the input of each expert.

    `inputs` is (T, K, C), or (T, 1, C) if all experts of a token get the same input. `chosen` (T, K) are the indices of
    the experts.
    """
    sums = np.zeros((n_experts, inputs.shape[2]))
    counts = np.bincount(chosen.reshape(-1), minlength=n_experts).astype(np.int64)
    for expert in np.flatnonzero(counts):
        tokens, places = np.nonzero(chosen == expert)
        x = inputs[tokens, places % inputs.shape[1]]
        sums[expert] = np.einsum("tc,tc->c", x, x)
    return sums, counts
