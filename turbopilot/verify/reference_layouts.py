"""Layouts for checkpoints whose classes transformers lacks: load them as an equivalent class, with rows rearranged.

The checkpoint's own code never runs. This module was written from the published sources, not from `converters`, whose
mistakes verify must find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    import torch

    State: TypeAlias = dict[str, torch.Tensor]

# modeling_codegen.py of Salesforce/codegen2-1B (and 3_7B) has `mp_num = 8`; transformers' CodeGen has `mp_num = 4`.
_CODEGEN2_BLOCKS: Final = 8
_CODEGEN_BLOCKS: Final = 4


@dataclass(frozen=True, slots=True)
class ForeignLayout:
    """Instructions for loading a checkpoint as a model class of transformers."""

    config: dict[str, Any]  # config.json for that class
    arrange: Callable[[Mapping[str, torch.Tensor]], State]  # converts the checkpoint's tensors


def foreign_layout(config: Mapping[str, Any]) -> ForeignLayout | None:
    """Return the layout for a config.json; None if transformers can load the checkpoint unchanged."""
    if "GPT2LMHeadCustomModel" in (config.get("architectures") or ()):
        named = {k: v for k, v in config.items() if k != "auto_map"}
        named |= {"model_type": "gpt_bigcode", "architectures": ["GPTBigCodeForCausalLM"]}
        named["multi_query"] = config.get("attention_head_type") == "multiquery"
        return ForeignLayout(named, santacoder)
    if config.get("model_type") == "codegen" and "head_dim" in config:
        return ForeignLayout(dict(config), codegen2)
    return None


def santacoder(state: Mapping[str, torch.Tensor]) -> State:
    """Convert the tensors of `GPT2LMHeadCustomModel` to `GPTBigCodeForCausalLM`.

    The source's layers store Conv1D matrices, (in, out), with q, (D, D), separate from k and v, (D, 2·d). GPTBigCode
    stores all three in `c_attn`, (D + 2·d, D).
    Source: bigcode/santacoder, modeling_gpt2_mq.py; transformers modeling_gpt_bigcode.py.
    """
    import torch

    turned = {
        name: tensor.T.contiguous() if ".h." in name and tensor.ndim == 2 else tensor
        for name, tensor in state.items()
    }
    for name in [n for n in turned if ".attn.q_attn." in n]:
        key_value = turned.pop(name.replace(".q_attn.", ".kv_attn."))
        turned[name.replace(".q_attn.", ".c_attn.")] = torch.cat([turned.pop(name), key_value])
    return turned


def codegen2(state: Mapping[str, torch.Tensor]) -> State:
    """Convert CodeGen2's `qkv_proj`, (3·D, D) in eight blocks of [q | v | k], to CodeGen's four blocks.

    Source: Salesforce/codegen2-1B, modeling_codegen.py; transformers modeling_codegen.py.
    """

    def four_blocks(fused: torch.Tensor) -> torch.Tensor:
        d = fused.shape[1]
        whole = fused.view(_CODEGEN2_BLOCKS, 3, -1, d).transpose(0, 1).reshape(3, d, d)  # q, v, k
        return whole.view(3, _CODEGEN_BLOCKS, -1, d).transpose(0, 1).reshape(3 * d, d)

    return {n: four_blocks(t) if "qkv_proj" in n else t for n, t in state.items()}
