"""Layouts for checkpoints whose classes transformers lacks: load them as an equivalent class, with rows rearranged.

The checkpoint's own code never runs. This module was written from the published sources, not from `converters`, whose
mistakes verify must find.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    import torch

    State: TypeAlias = dict[str, torch.Tensor]

# modeling_codegen.py of Salesforce/codegen2-1B (and 3_7B) has `mp_num = 8`; transformers' CodeGen has `mp_num = 4`.
_CODEGEN2_BLOCKS: Final = 8
_CODEGEN_BLOCKS: Final = 4
_REFACT_MULTIPLE: Final = 256  # of the feed-forward size, `multiple_of` in modeling_gpt_refact.py


@dataclass(frozen=True, slots=True)
class ForeignLayout:
    """Instructions for loading a checkpoint as a model class of transformers."""

    config: dict[str, Any]  # config.json for that class
    arrange: Callable[[Mapping[str, torch.Tensor]], State]  # converts the checkpoint's tensors
    adapt: Callable[[Any], None] | None = None  # changes the model's inputs


def foreign_layout(config: Mapping[str, Any]) -> ForeignLayout | None:
    """Return the layout for a config.json; None if transformers can load the checkpoint unchanged."""
    if "GPT2LMHeadCustomModel" in (config.get("architectures") or ()):
        named = {k: v for k, v in config.items() if k != "auto_map"}
        named |= {"model_type": "gpt_bigcode", "architectures": ["GPTBigCodeForCausalLM"]}
        named["multi_query"] = config.get("attention_head_type") == "multiquery"
        return ForeignLayout(named, santacoder)
    if "GPTRefactForCausalLM" in (config.get("architectures") or ()):
        return ForeignLayout(_refact_config(config), refact, without_rotation)
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


def _refact_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the StableLM that has Refact's layers: LayerNorm, SwiGLU, no biases, one key/value head."""
    inner = int(2 * (config.get("n_inner") or 4 * config["n_embd"]) / 3)
    return {
        "model_type": "stablelm", "architectures": ["StableLmForCausalLM"], "hidden_size": config["n_embd"],
        "num_hidden_layers": config["n_layer"], "num_attention_heads": config["n_head"], "num_key_value_heads": 1,
        "intermediate_size": math.ceil(inner / _REFACT_MULTIPLE) * _REFACT_MULTIPLE,
        "layer_norm_eps": config.get("layer_norm_epsilon", 1e-5), "vocab_size": config["vocab_size"],
        "max_position_embeddings": config["n_positions"], "hidden_act": "silu", "use_qkv_bias": False,
        "qk_layernorm": False, "use_parallel_residual": False, "tie_word_embeddings": False,
    }  # fmt: skip


# part of a name in Refact → the parts in StableLM; a fused matrix has several
_REFACT_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "transformer.wte": ("model.embed_tokens",),
    "ln_1": ("input_layernorm",),
    "attn.q": ("self_attn.q_proj",),
    "attn.kv": ("self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "ln_2": ("post_attention_layernorm",),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.c_proj": ("mlp.down_proj",),
    "ln_f": ("model.norm",),
    "lm_head": ("lm_head",),
}


def refact(state: Mapping[str, torch.Tensor]) -> State:
    """Convert the tensors of `GPTRefactForCausalLM` to `StableLmForCausalLM`; the biases of its norms are zeros.

    The source fuses k and v, (2·d, D), and gate and up, (2·F, D).
    Source: smallcloudai/Refact-1_6B-fim, modeling_gpt_refact.py; transformers modeling_stablelm.py.
    """
    import torch

    arranged: State = {}
    for name, tensor in state.items():
        found = re.fullmatch(r"(?:transformer\.h\.(\d+)\.)?(.+)\.weight", name)
        news = _REFACT_NAMES.get(found[2], ()) if found else ()
        layer = f"model.layers.{found[1]}." if found and found[1] else ""
        for new, part in zip(news, tensor.chunk(len(news) or 1), strict=False):
            arranged[f"{layer}{new}.weight"] = part
            if "norm" in new:
                arranged[f"{layer}{new}.bias"] = torch.zeros_like(part)
    return arranged


def without_rotation(model: Any) -> None:
    """Make a model compute ALiBi instead of rotary embeddings.

    At position 0 a rotation changes nothing, so every position becomes 0. ALiBi, a slope times the distance of key and
    query, is a 4D mask, which transformers adds to the scores. It takes 4·H·T² bytes.
    """

    def positioned(module: Any, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        ids, past = named["input_ids"], named.get("past_key_values")
        seen = past.get_seq_length() if past is not None else 0
        mask = alibi(module.config.num_attention_heads, seen, ids.shape[1])
        weight = module.get_input_embeddings().weight
        positions = ids.new_zeros(ids.shape)
        return given, {
            **named, "position_ids": positions, "attention_mask": mask.to(ids.device, weight.dtype),
        }  # fmt: skip

    model.base_model.register_forward_pre_hook(positioned, with_kwargs=True)


def alibi(n_heads: int, seen: int, n_tokens: int) -> torch.Tensor:
    """Return the causal mask (1, H, T, seen + T): slope times (key - query), minus infinity for later keys.

    Slopes of 2ⁿ heads are the powers 1 … 2ⁿ of 2^(-8 / 2ⁿ); further heads take every second slope of 2ⁿ⁺¹ heads.
    Source: Press et al. 2021 (arXiv 2108.12409), section 3.
    """
    import torch

    power = 2 ** math.floor(math.log2(n_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(n_heads - power)]
    key = torch.arange(seen + n_tokens)
    distance = key[None, :] - key[seen:, None]
    causal = torch.where(distance > 0, float("-inf"), 0.0)
    return (torch.tensor(slopes)[:, None, None] * distance + causal)[None]
