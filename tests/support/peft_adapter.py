"""PEFT adapters with random matrices, and the checkpoints that result from merging them.

The merge is PEFT's formula, W + alpha / r · B·A, written out. Source: `get_delta_weight` and `update_layer` in
src/peft/tuners/lora/layer.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

RANK, ALPHA = 8, 16

_LLAMA = (
    *(f"model.layers.{i}.self_attn.{n}_proj" for i in (0, 2) for n in "qkvo"),
    *(f"model.layers.1.mlp.{n}_proj" for n in ("gate", "up", "down")),
)  # fmt: skip
# Modules of the first and last layer of each tiny family, and the output: each kind that llama.cpp can adapt.
MODULES: Mapping[str, tuple[str, ...]] = {
    "llama": (*_LLAMA, "lm_head"), "qwen2": (*_LLAMA, "lm_head"),
    **dict.fromkeys(("qwen3", "mistral", "gemma", "granite"), _LLAMA),
    **dict.fromkeys(("qwen3moe", "mixtral"), _LLAMA[:8]),  # not the experts
    "deepseekv2": ("model.layers.0.self_attn.o_proj", "model.layers.2.self_attn.o_proj"),
    "codegen": (
        *(f"transformer.h.{i}.attn.{n}" for i in (0, 2) for n in ("qkv_proj", "out_proj")),
        "transformer.h.1.mlp.fc_in", "transformer.h.1.mlp.fc_out", "lm_head",
    ),
    "gptj": (*(f"transformer.h.{i}.attn.{n}_proj" for i in (0, 2) for n in ("q", "k", "v", "out")),),
    "gptbigcode": (
        *(f"transformer.h.{i}.attn.{n}" for i in (0, 2) for n in ("c_attn", "c_proj")), "transformer.h.1.mlp.c_fc",
    ),
    "gptneox": (
        *(f"gpt_neox.layers.{i}.attention.{n}" for i in (0, 2) for n in ("query_key_value", "dense")),
        "gpt_neox.layers.1.mlp.dense_h_to_4h", "embed_out",
    ),
    "starcoder2": (
        *(f"model.layers.{i}.self_attn.{n}_proj" for i in (0, 2) for n in "qkvo"),
        "model.layers.1.mlp.c_fc", "model.layers.1.mlp.c_proj",
    ),
    "stablelm": (*(f"model.layers.{i}.self_attn.{n}_proj" for i in (0, 2) for n in "qkvo"),),
    "phi": (*(f"model.layers.{i}.self_attn.{n}" for i in (0, 2) for n in ("q_proj", "k_proj", "v_proj", "dense")),),
}  # fmt: skip


def weight_name(module: str) -> str:
    return f"{module}.weight"


def adapter_config(**values: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "use_rslora": False, "use_dora": False,
        "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "init_lora_weights": True,
        "base_model_name_or_path": "owner/base", "target_modules": ["q_proj"], **values,
    }  # fmt: skip


def write_adapter(
    base: Path,
    folder: Path,
    modules: tuple[str, ...],
    *,
    ranks: Mapping[str, int] | None = None,
    embedding: str = "",
    seed: int = 0,
    **values: Any,
) -> Path:
    """Write a random adapter for some modules of a checkpoint; `values` are those of its config."""
    folder.mkdir(parents=True)
    weights = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def random(*shape: int) -> torch.Tensor:
        return torch.normal(0.0, 0.12, shape, generator=generator)

    for module in modules:
        n_out, n_in = weights[weight_name(module)].shape
        r = (ranks or {}).get(module, values.get("r", RANK))
        state[f"base_model.model.{module}.lora_A.weight"] = random(r, n_in)
        state[f"base_model.model.{module}.lora_B.weight"] = random(n_out, r)
    if embedding:
        n_vocab, width = weights[weight_name(embedding)].shape
        state[f"base_model.model.{embedding}.lora_embedding_A"] = 3 * random(RANK, n_vocab)
        state[f"base_model.model.{embedding}.lora_embedding_B"] = 3 * random(width, RANK)
        # PEFT 0.21 saves the unchanged embedding too.
        copied = f"base_model.model.{embedding}.base_layer.weight"
        state[copied] = weights[weight_name(embedding)].clone()
    save_file(state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(**values)))
    return folder


def merged(base: Path, adapter: Path, folder: Path, scale: Mapping[str, float] | float) -> Path:
    """Write the checkpoint with W + scale · B·A; `scale` is alpha / r, or one value for each module."""
    shutil.copytree(base, folder)
    weights = load_file(base / "model.safetensors")
    state = load_file(adapter / "adapter_model.safetensors")
    for name, a in state.items():
        module = name.removeprefix("base_model.model.").partition(".lora_")[0]
        factor = scale if isinstance(scale, int | float) else scale[module]
        if name.endswith("lora_A.weight"):
            delta = state[name.replace("lora_A", "lora_B")] @ a
        elif name.endswith("lora_embedding_A"):
            delta = (state[name.replace("embedding_A", "embedding_B")] @ a).T
        else:
            continue
        weights[weight_name(module)] = weights[weight_name(module)] + factor * delta
    save_file(weights, folder / "model.safetensors")
    return folder
