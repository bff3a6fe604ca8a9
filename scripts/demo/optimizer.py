"""Muon for the matrices of the blocks, Adam for all other parameters, with state in shared memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MUON_RATE, MUON_MOMENTUM, MUON_DECAY = 0.02, 0.95, 0.01
ADAM_RATE, ADAM_BETAS, ADAM_EPSILON = 3e-3, (0.9, 0.97), 1e-8


class Optimizer:
    """Optimizer whose update of one parameter can run in any process that shares the model.

    Muon (K. Jordan, 2024) orthogonalizes the update of a matrix with five Newton-Schulz steps.
    """

    def __init__(self, parameters: list[nn.Parameter], matrices: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self._matrices = {id(p) for p in matrices}
        self.first = [shared_zeros(*p.shape) for p in parameters]
        self.second = [
            shared_zeros(*(() if id(p) in self._matrices else p.shape)) for p in parameters
        ]

    @torch.no_grad()
    def update(self, index: int, grad: Tensor, factor: float, step: int) -> None:
        """Update one parameter; `factor` scales the learning rate, `step` counts from 0."""
        p, first = self.parameters[index], self.first[index]
        if id(p) in self._matrices:
            first.lerp_(grad, 1 - MUON_MOMENTUM)
            change = orthogonalized(grad.lerp(first, MUON_MOMENTUM))
            scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
            p.mul_(1 - factor * MUON_RATE * MUON_DECAY).add_(
                change, alpha=-factor * MUON_RATE * scale
            )
            return
        second = self.second[index]
        first.lerp_(grad, 1 - ADAM_BETAS[0])
        second.mul_(ADAM_BETAS[1]).addcmul_(grad, grad, value=1 - ADAM_BETAS[1])
        corrected = [1 - beta ** (step + 1) for beta in ADAM_BETAS]
        size = (second / corrected[1]).sqrt_().add_(ADAM_EPSILON)
        p.addcdiv_(first, size, value=-factor * ADAM_RATE / corrected[0])


def shared_zeros(*shape: int) -> Tensor:
    """Return zeros in memory that forked processes share."""
    zeros: Tensor = torch.zeros(shape).share_memory_()  # type: ignore[no-untyped-call]
    return zeros


def orthogonalized(update: Tensor) -> Tensor:
    """Return the matrix with its singular values moved close to 1, computed in BF16."""
    is_wide = update.shape[0] <= update.shape[1]
    x = update.bfloat16() if is_wide else update.bfloat16().T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    found: Tensor = (x if is_wide else x.T).float()
    return found
