"""Refact as plain PyTorch, written from its published formulas, and tiny random checkpoints of it.

Source: smallcloudai/Refact-1_6B-fim, modeling_gpt_refact.py. Biases of ALiBi are the slope times the key's position
instead of the distance: the softmax is the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from tests.support import tiny

WIDTH, LAYERS, HEADS, INNER, VOCAB = 256, 3, 4, 768, 1024
CONFIG: Final[dict[str, Any]] = {
    "architectures": ["GPTRefactForCausalLM"], "model_type": "gpt_refact", "multi_query": True, "n_embd": WIDTH,
    "n_layer": LAYERS, "n_head": HEADS, "n_inner": None, "n_positions": 512, "vocab_size": VOCAB,
    "layer_norm_epsilon": 1e-5,
}  # fmt: skip


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.kv = nn.Linear(WIDTH, 2 * WIDTH // HEADS, bias=False)
        self.c_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = len(x)
        query = self.q(x).view(n, HEADS, -1).transpose(0, 1)
        key, value = self.kv(x).chunk(2, dim=-1)
        slopes = torch.tensor([2.0 ** (-8 * (h + 1) / HEADS) for h in range(HEADS)])
        scores = query @ key.T / key.shape[-1] ** 0.5
        scores = scores + slopes[:, None, None] * torch.arange(1, n + 1)
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf"))
        mixed: torch.Tensor = scores.softmax(-1) @ value
        return self.c_proj(mixed.transpose(0, 1).reshape(n, WIDTH))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.c_proj = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.c_proj(F.silu(gate) * up)  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = (nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.attn, self.mlp = Attention(), Mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = x + self.attn(self.ln_1(x))
        return mixed + self.mlp(self.ln_2(mixed))  # type: ignore[no-any-return]


class Refact(nn.Module):
    """Logits (T, V) of T token ids; the names of its tensors are those of the published files."""

    def __init__(self) -> None:
        super().__init__()
        blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(VOCAB, WIDTH), "h": blocks})
        self.ln_f = nn.LayerNorm(WIDTH, bias=False)
        self.lm_head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.transformer["wte"](ids)
        for block in self.transformer["h"]:  # type: ignore[attr-defined]
            x = block(x)
        return self.lm_head(self.ln_f(x))  # type: ignore[no-any-return]


def tiny_refact(folder: Path, **overrides: Any) -> Refact:
    """Write a random checkpoint into `folder`, and return its network."""
    folder.mkdir(parents=True)
    model = Refact().eval()
    tiny._spread(model, seed=0)
    save_file(dict(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
    eos = tiny.tiny_tokenizer(()).token_to_id(tiny.EOS)
    config = {**CONFIG, "bos_token_id": eos, "eos_token_id": eos, **overrides}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    tiny._save_tokenizer(*tiny._starcoder(), folder)
    return model
