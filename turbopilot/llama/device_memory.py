"""Sizes of the parts of a model that can be placed on a device, and what a context adds to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from turbopilot.base.errors import InvalidInput
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.footprint import UBATCH, KvLayout, activations, mask_bytes
from turbopilot.llama.geometry import Geometry, header_geometry, matrix_bytes
from turbopilot.llama.placement_wish import EXPERTS_ON_CPU

INPUT_TENSORS: Final = ("token_embd", "position_embd", "token_types", "per_layer_token_embd")
"""Beginnings of the names of tensors that stay in main memory.

Source: LLM_TENSOR_LAYER_INPUT in llama.cpp's src/llama-arch.cpp.
"""
_LAYER: Final = re.compile(r"blk\.(\d+)\.")
# Copies of a batch's inputs if several devices compute batches one behind the other. Source: GGML_SCHED_MAX_COPIES in
# ggml-backend.cpp.
_COPIES: Final = 4
_SMALL: Final = 2**17  # positions, token ids and the like


@dataclass(frozen=True, slots=True)
class ModelParts:
    """Bytes of a model's weights by what decides their place.

    Attributes:
        layers: of each layer.
        input: of the token embedding and the like, which stay in main memory.
        output: of the output head and the last norm.
        tied: of the token embedding if it is the output head too: a device gets a copy.
        largest: of the largest matrix of a layer.
        has_output_bias: whether the output head has a bias, so that logits are in memory twice.
        pinned: (device, bytes) of the tensors that --override-tensor puts elsewhere; they are in no other field.
    """

    geometry: Geometry
    layers: tuple[int, ...]
    input: int
    output: int
    tied: int = 0
    largest: int = 0
    pinned: tuple[tuple[str, int], ...] = ()
    has_output_bias: bool = False

    @property
    def n_vocab(self) -> int:
        """Length of a row of logits."""
        return self.geometry.vocab

    def pinned_to(self, device: str) -> int:
        """Return the bytes of tensors that the user put on a device."""
        return sum(n for name, n in self.pinned if name.lower() == device.lower())


@dataclass(frozen=True, slots=True)
class ContextNeed:
    """A context whose memory is to be placed.

    Attributes:
        n_ctx: tokens of each sequence.
        n_outputs: rows of logits.
        has_scores: whether attention keeps its scores in memory (without flash attention).
    """

    n_ctx: int
    layout: KvLayout = KvLayout()  # noqa: RUF009 — frozen
    cache_type: str = "f16"
    n_batch: int = UBATCH
    n_outputs: int = 1
    has_scores: bool = False

    @property
    def n_cells(self) -> int:
        """Cells of the KV cache, rounded up as llama.cpp does."""
        return -(-self.layout.n_cells(self.n_ctx) // 256) * 256

    def kv_bytes(self, parts: ModelParts) -> int:
        """Return the bytes of the KV cache of all layers."""
        return parts.geometry.kv_bytes(self.n_cells, self.cache_type)


def model_parts(header: GgufHeader, overrides: Sequence[tuple[str, str]] = ()) -> ModelParts:
    """Return the sizes of a model file's parts.

    Args:
        header: a checked model file.
        overrides: (pattern, device) pairs; the first pattern that matches a tensor's name decides.

    Raises:
        InvalidInput: a pattern is not a regular expression.
    """
    patterns = [(compiled_pattern(pattern), device) for pattern, device in overrides]
    geometry = header_geometry(header)
    layers = [0] * geometry.layers
    inputs = output = largest = embedding = 0
    pinned: dict[str, int] = {}
    for tensor in header.tensors:
        found = _LAYER.match(tensor.name)
        device = next((d for p, d in patterns if p.search(tensor.name)), "")
        is_input = tensor.name.startswith(INPUT_TENSORS)
        if tensor.name == "token_embd.weight":
            embedding = tensor.n_bytes
        if found:
            largest = max(largest, tensor.n_bytes)
        if device:
            pinned[device] = pinned.get(device, 0) + tensor.n_bytes
        elif found and int(found[1]) < len(layers):
            layers[int(found[1])] += tensor.n_bytes
        elif is_input:
            inputs += tensor.n_bytes
        else:
            output += tensor.n_bytes
    tied = embedding if geometry.tied else 0
    has_bias = any(t.name == "output.bias" for t in header.tensors)
    return ModelParts(
        geometry, tuple(layers), inputs, output, tied, largest, tuple(pinned.items()), has_bias
    )


@cache
def predicted_parts(geometry: Geometry, parameters: int, type_name: str) -> ModelParts:
    """Predict the sizes of a model file's parts.

    `parameters` is the exact number of weights; those outside of matrices are in the layers. `type_name` is one of
    `geometry.TYPES`.
    """
    layers = [0] * geometry.layers
    inputs = output = largest = embedding = 0
    for name, size in matrix_bytes(geometry, type_name).items():
        if found := _LAYER.match(name):
            layers[int(found[1])] += size
            largest = max(largest, size)
        elif name.startswith(INPUT_TENSORS):
            inputs += size
            embedding = size if name == "token_embd.weight" else embedding
        else:
            output += size
    vectors = 4 * max(0, parameters - geometry.weights) // max(1, len(layers))
    sizes = tuple(size + vectors for size in layers)
    return ModelParts(geometry, sizes, inputs, output, embedding if geometry.tied else 0, largest)


def compiled_pattern(pattern: str) -> re.Pattern[str]:
    """Return a pattern of --override-tensor; raise InvalidInput if it is not a regular expression."""
    try:
        return re.compile(pattern)
    except re.error as e:
        raise InvalidInput(
            f"--override-tensor {pattern}: not a regular expression: {e}",
            hint=f'for the experts, for example: --override-tensor "{EXPERTS_ON_CPU}"',
        ) from None


def compute_bytes(
    parts: ModelParts,
    need: ContextNeed,
    *,
    has_layers: bool = True,
    has_output: bool = False,
    is_pipeline: bool = False,
) -> int:
    """Predict the compute buffers of a device, or of the CPU: an upper limit, as llama.cpp reuses memory.

    A test compares it with llama.cpp's buffers on RPC devices.

    Args:
        parts: sizes of the model.
        need: the context.
        has_layers: whether layers are computed there; otherwise only the input, or the logits.
        has_output: whether the logits are computed there.
        is_pipeline: whether several devices compute batches one behind the other: each then has copies of its inputs.
    """
    geometry, batch = parts.geometry, min(need.n_batch, UBATCH)
    copies = _COPIES if is_pipeline else 1
    masks = copies * mask_bytes(need.n_ctx, batch) * (2 if need.has_scores else 1)
    inputs = (4 if need.has_scores else 2) * copies * 4 * batch * geometry.width
    layers = 4 * batch * activations(geometry)
    if need.has_scores:
        # Scores, with the queries, keys and values beside them; their inputs are kept longer in a pipeline.
        beside = 6 + 6 * (copies > 1)
        layers = max(layers, 4 * batch * (need.n_ctx * geometry.heads + beside * geometry.width))
    # After the last layer, llama.cpp computes only the rows of which logits are wanted.
    row = parts.n_vocab * (1 + parts.has_output_bias) + (2 + 2 * copies) * geometry.width
    logits = 4 * min(need.n_outputs, batch) * row * has_output
    if has_output and not has_layers:
        return logits + _SMALL
    return max(layers * has_layers, logits) + masks + inputs + _SMALL
