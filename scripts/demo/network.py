"""CodeGen's network, which equals GPT-J's, with fused attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.tokenizer import N_ROWS

HEAD_ROWS = 256  # positions whose logits are computed at once: 4 MB in FP32


@dataclass(frozen=True)
class Geometry:
    """Shape of the network, with the names of CodeGen's config.json."""

    n_embd: int = 256
    n_layer: int = 4
    n_head: int = 4
    rotary_dim: int = 32
    n_positions: int = 1024


class Block(nn.Module):
    """GPT-J's block: x + attn(ln(x)) + mlp(ln(x))."""

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        d = g.n_embd
        self.g = g
        self.ln_1 = nn.LayerNorm(d)
        self.q_proj = nn.Linear(d, d, bias=False)
        self.k_proj = nn.Linear(d, d, bias=False)
        self.v_proj = nn.Linear(d, d, bias=False)
        self.out_proj = nn.Linear(d, d, bias=False)
        self.fc_in = nn.Linear(d, 4 * d)
        self.fc_out = nn.Linear(4 * d, d)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, d = x.shape
        y = self.ln_1(x)
        if torch.is_autocast_enabled("cpu"):
            y = y.bfloat16()
        weight = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        heads = F.linear(y, weight).view(b, t, 3 * self.g.n_head, -1).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=1)
        cos, sin = cos.to(y.dtype), sin.to(y.dtype)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mlp = self.fc_out(F.gelu(self.fc_in(y), approximate="tanh"))
        out: Tensor = x + self.out_proj(attend(q, k, v).transpose(1, 2).reshape(b, t, d)) + mlp
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, size: int = 256) -> Tensor:
    """Return causal attention, (B, H, T, d), computed in blocks of queries.

    In BF16 on a CPU this takes half the time of scaled_dot_product_attention, whose backward pass is slow there.
    """
    out = []
    for start in range(0, q.shape[2], size):
        end = min(start + size, q.shape[2])
        scores = (q[:, :, start:end] * q.shape[-1] ** -0.5) @ k[:, :, :end].transpose(-1, -2)
        later = torch.full((end - start, end), -torch.inf, dtype=scores.dtype).triu(start + 1)
        out.append((scores + later).softmax(-1) @ v[:, :, :end])
    return torch.cat(out, dim=2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate interleaved pairs of the first R dimensions. x: (B, H, T, d); cos, sin: (T, R/2)."""
    r = 2 * cos.shape[-1]
    even, odd = x[..., 0:r:2], x[..., 1:r:2]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((turned, x[..., r:]), dim=-1)


class DemoModel(nn.Module):
    """CodeGen network: token ids (B, T) → logits (B, T, V)."""

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.g = g
        self.wte = nn.Embedding(N_ROWS, g.n_embd)
        self.h = nn.ModuleList(Block(g) for _ in range(g.n_layer))
        self.ln_f = nn.LayerNorm(g.n_embd)
        self.lm_head = nn.Linear(g.n_embd, N_ROWS)
        inv_freq = 10000.0 ** (-torch.arange(0, g.rotary_dim, 2).float() / g.rotary_dim)
        angles = torch.arange(g.n_positions).float()[:, None] * inv_freq
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)
            if name.endswith(("out_proj.weight", "fc_out.weight", "lm_head.weight")):
                nn.init.zeros_(p)

    def hidden(self, ids: Tensor) -> Tensor:
        """Return what the head sees, (B, T, D), of token ids (B, T)."""
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]  # type: ignore[index]
        x = self.wte(ids)
        for block in self.h:
            x = block(x, cos, sin)
        out: Tensor = self.ln_f(x)
        return out

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits (B, T, V) of token ids (B, T)."""
        out: Tensor = self.lm_head(self.hidden(ids))
        return out

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the cross-entropies at all positions, computed in BF16; ids and targets: (B, T)."""
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.hidden(ids).flatten(0, 1)
        weight, bias = self.lm_head.weight, self.lm_head.bias
        total: Tensor = HeadLoss.apply(hidden, weight, bias, targets.flatten())  # type: ignore[no-untyped-call]
        return total


class HeadLoss(torch.autograd.Function):
    """Output head and cross-entropy in one, in parts whose logits fit the cache; gradients come with the loss."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the losses. hidden: (N, D); weight: (V, D); targets: (N)."""
        total = hidden.new_zeros(())
        x, w = hidden.bfloat16(), weight.bfloat16()
        d_hidden, d_weight, d_bias = map(torch.zeros_like, (hidden, weight, bias))
        for start in range(0, len(x), HEAD_ROWS):
            rows = slice(start, start + HEAD_ROWS)
            part, target = x[rows], targets[rows, None]
            logits = torch.addmm(bias.bfloat16(), part, w.T).float()
            logits -= logits.amax(1, keepdim=True)
            chosen = logits.gather(1, target)
            grad = logits.exp_()
            sums = grad.sum(1, keepdim=True)
            total += (sums.log() - chosen).sum()
            grad.div_(sums).scatter_add_(1, target, torch.full_like(chosen, -1.0))
            d_bias += grad.sum(0)
            g = grad.bfloat16()
            d_hidden[rows] = g @ w
            d_weight += g.T @ part
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of hidden, weight and bias."""
        return (*(grad * scale for grad in ctx.saved_tensors), None)
