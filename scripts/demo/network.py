"""CodeGen's network, which equals GPT-J's, with fused attention; and the optimizer of its matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.tokenizer import N_ROWS


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
        q, k, v = (
            p(y).view(b, t, self.g.n_head, -1).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        attn = F.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True
        )
        mlp = self.fc_out(F.gelu(self.fc_in(y), approximate="tanh"))
        out: Tensor = x + self.out_proj(attn.transpose(1, 2).reshape(b, t, d)) + mlp
        return out


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

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits (B, T, V) of token ids (B, T)."""
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]  # type: ignore[index]
        x = self.wte(ids)
        for block in self.h:
            x = block(x, cos, sin)
        out: Tensor = self.lm_head(self.ln_f(x))
        return out


class Muon(torch.optim.Optimizer):
    """Momentum optimizer with orthogonalized updates (five Newton-Schulz steps; K. Jordan, 2024), in FP32.

    torch.optim.Muon computes the steps in BF16, which CPUs without BF16 arithmetic emulate at a tenth of the speed.
    """

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                buf = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buf.lerp_(p.grad, 1 - group["momentum"])
                x = p.grad.lerp(buf, group["momentum"])
                wide = x.shape[0] <= x.shape[1]
                x = (x if wide else x.T) / (x.norm() + 1e-7)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * 0.01).add_(x if wide else x.T, alpha=-group["lr"] * scale)
