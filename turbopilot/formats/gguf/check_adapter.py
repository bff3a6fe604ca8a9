"""Checks of a LoRA adapter's header against its model's, before llama.cpp loads the adapter.

llama.cpp refuses some faults, ignores vectors, and ends the process if two tensors of a pair do not fit together.
Source: `llama_adapter_lora_init_impl` in llama.cpp's src/llama-adapter.cpp; `build_lora_mm` and `build_inp_embd` in
src/llama-graph.cpp.
"""

from __future__ import annotations

import math
import re
from typing import Final

from turbopilot.base.errors import CorruptModel, InvalidInput
from turbopilot.base.quoting import quoted
from turbopilot.formats.gguf.file import GgufHeader, TensorInfo

ALPHA_KEY: Final = "adapter.lora.alpha"
A_SUFFIX, B_SUFFIX = ".lora_a", ".lora_b"
EMBEDDING: Final = "token_embd.weight"
# Activated LoRA, which takes effect only after these tokens.
_INVOCATION_KEY: Final = "adapter.alora.invocation_tokens"
# Matrices that a graph multiplies without adapters. Source: src/models/deepseek2.cpp; position vectors are looked up.
_NOT_ADAPTED: Final = {
    "deepseek2": re.compile(
        r"output\.weight|blk\.\d+\.attn_(q|q_a|q_b|kv_a_mqa|kv_b|k_b|v_b)\.weight"
    ),
}
_MERGE: Final = (
    "merge the adapter into its checkpoint with PEFT's merge_and_unload, and convert that"
)
_TYPES: Final = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")


def is_adapter(header: GgufHeader) -> bool:
    """Return whether a GGUF contains an adapter instead of a model."""
    return header.metadata.get("general.type") == "adapter"


def can_adapt(architecture: str, name: str) -> bool:
    """Return whether llama.cpp applies adapters to a matrix of an architecture; if not, it ignores them."""
    ignored = _NOT_ADAPTED.get(architecture)
    return name != "position_embd.weight" and not (ignored and ignored.fullmatch(name))


def check_adapter(adapter: GgufHeader, model: GgufHeader) -> None:
    """Check that llama.cpp can apply an adapter to a model, all of it.

    Raises:
        InvalidInput: the file is not a LoRA adapter, or belongs to another model; the message names the tensor.
        CorruptModel: the file is damaged.
    """
    _check_metadata(adapter, model)
    tensors = {t.name: t for t in model.tensors}
    pairs = adapter_pairs(adapter)
    if not pairs:
        raise _corrupt(adapter, "it has no tensors")
    for name, (a, b) in pairs.items():
        if name not in tensors:
            raise _other_model(adapter, model, f"the model has no tensor {quoted(name)}")
        weight = tensors[name]
        if name == EMBEDDING and "output.weight" not in tensors:
            raise InvalidInput(
                f"{adapter.path}: tensor {quoted(a.name)} changes the token embedding, which is also the output of "
                f"{model.path.name}; llama.cpp cannot apply it",
                hint=_MERGE,
            )
        if len(weight.shape) < 2 or not can_adapt(model.architecture, name):
            raise _ignored(adapter, name)
        _check_pair(adapter, model, weight, a, b)


def _check_metadata(adapter: GgufHeader, model: GgufHeader) -> None:
    m = adapter.metadata
    if not is_adapter(adapter):
        raise InvalidInput(
            f"{adapter.path}: is not a LoRA adapter, but a model",
            hint="give a model as MODEL, and with --lora an adapter from: turbopilot convert ADAPTER --base MODEL",
        )
    if (kind := m.get("adapter.type")) != "lora":
        raise InvalidInput(
            f"{adapter.path}: adapter.type is {quoted(kind)}; only lora is supported"
        )
    if adapter.n_files > 1:
        raise _corrupt(adapter, f"it is split into {adapter.n_files:,} files")
    if _INVOCATION_KEY in m:
        raise InvalidInput(
            f"{adapter.path}: is an activated LoRA (aLoRA), which is not supported",
            hint="use an adapter that applies to the whole text",
        )
    if adapter.architecture != model.architecture:
        what = (
            f"it is for the architecture {quoted(adapter.architecture)}, not {model.architecture}"
        )
        raise _other_model(adapter, model, what)
    alpha = m.get(ALPHA_KEY, 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise _corrupt(adapter, f"{ALPHA_KEY} is {quoted(alpha)}, not a finite number")


def adapter_pairs(adapter: GgufHeader) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """Return name of the model's tensor → (lora_a, lora_b).

    Raises:
        InvalidInput: a tensor is not part of a pair; llama.cpp would ignore it.
        CorruptModel: one tensor of a pair is missing.
    """
    tensors = {t.name: t for t in adapter.tensors}
    names = []
    for t in adapter.tensors:
        name = t.name.removesuffix(A_SUFFIX).removesuffix(B_SUFFIX)
        if name == t.name or A_SUFFIX in name or B_SUFFIX in name:
            raise _ignored(adapter, t.name)
        names.append(name)
        for other in (name + A_SUFFIX, name + B_SUFFIX):
            if other not in tensors:
                raise _corrupt(adapter, f"tensor {quoted(other)} is missing")
    return {name: (tensors[name + A_SUFFIX], tensors[name + B_SUFFIX]) for name in names}


def _check_pair(
    adapter: GgufHeader, model: GgufHeader, weight: TensorInfo, a: TensorInfo, b: TensorInfo
) -> None:
    """Reject shapes that do not fit the model's tensor or each other; all are innermost first."""
    n_in, n_out, *experts = weight.shape
    rank = b.shape[0]
    # For the embedding, the rows of lora_a are looked up, so lora_a is transposed.
    wanted_a = (rank, n_out) if weight.name == EMBEDDING else (n_in, rank, *experts)
    wanted_b = (rank, n_in) if weight.name == EMBEDDING else (rank, n_out, *experts)
    for t, wanted in ((b, wanted_b), (a, wanted_a)):
        if t.shape != wanted:
            what = (
                f"tensor {quoted(t.name)} has the shape {t.shape[::-1]}, but {wanted[::-1]} fits "
                f"{quoted(weight.name)}"
            )
            raise _other_model(adapter, model, what)
        if t.type_name not in _TYPES:
            raise _corrupt(adapter, f"tensor {quoted(t.name)} has the type {t.type_name}")


def _ignored(adapter: GgufHeader, name: str) -> InvalidInput:
    return InvalidInput(
        f"{adapter.path}: tensor {quoted(name)} cannot be applied: llama.cpp adapts only some matrices, by a pair "
        f"{A_SUFFIX} and {B_SUFFIX}",
        hint=_MERGE,
    )


def _other_model(adapter: GgufHeader, model: GgufHeader, what: str) -> InvalidInput:
    return InvalidInput(
        f"{adapter.path}: does not fit {model.path}: {what}",
        hint="give the model that the adapter was trained on",
    )


def _corrupt(adapter: GgufHeader, what: str) -> CorruptModel:
    return CorruptModel(
        f"{adapter.path}: the adapter cannot be used: {what}",
        hint="convert or download it again",
    )
