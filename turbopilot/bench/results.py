"""Measurements of a file: speed, memory, divergence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from turbopilot.base.kl_divergence import Floats, Perplexity, perplexity
from turbopilot.llama.log import Buffers


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second: tokens of each repeat, and a sample for each."""

    tokens: int
    samples: tuple[float, ...]

    @classmethod
    def of(cls, tokens: int, samples: list[float]) -> Rate | None:
        """Return the rate of these repeats; None without any."""
        return cls(tokens, tuple(samples)) if samples else None

    @property
    def median(self) -> float:
        """Return the median of the samples."""
        return median(self.samples)

    @property
    def spread(self) -> float:
        """Return half of the difference between the slowest and the fastest."""
        return (max(self.samples) - min(self.samples)) / 2

    def joined(self, other: Rate) -> Rate:
        """Add the repeats of another round."""
        return Rate(self.tokens, self.samples + other.samples)


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of the process in which the model was loaded and used.

    Attributes:
        peak: the maximum, including Python and llama.cpp's library.
        base: before the model was loaded.
        now: at the end, below the peak if weights were rearranged at loading.
        needed: after the mapped file's pages were dropped and used ones read again; `now` if the system cannot.
        of_files: pages of the mapped file in `now`, which the system may drop; 0 if it does not report them.
        buffers: llama.cpp's allocations, from its log.
        devices: name → bytes of GPU memory taken by all processes since before the model was loaded.
    """

    peak: int
    base: int
    now: int
    needed: int
    of_files: int
    buffers: Buffers
    devices: dict[str, int]


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured file: its type is the one that holds the most bytes, its size that of all its parts.

    `n_ctx` are the cells of the context, `devices` the GPUs that llama.cpp had, and `built_for` is its description of
    its build and the processor. `prompt` is the prefill speed, `generation` the decode speed after the prompt.
    """

    path: Path
    type_name: str
    n_bytes: int
    bits_per_weight: float
    n_ctx: int
    n_threads: int
    cache_type: str
    devices: tuple[str, ...]
    llama_cpp: str
    built_for: str
    prompt: Rate | None
    generation: Rate | None
    memory: Memory | None

    def joined(self, other: Measured) -> Measured:
        """Add the rates of another repeat."""
        rates = {
            name: rate.joined(getattr(other, name))
            for name in ("prompt", "generation")
            if (rate := getattr(self, name)) is not None
        }
        return replace(self, **rates)


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(reference ‖ file) in nats, over so many positions of a text.

    `top1` is the share of positions where both prefer the same token. Standard errors treat positions as independent,
    which they are not within a window; that of the ratio file / reference is of the paired difference.
    """

    positions: int
    mean_kl: float
    mean_kl_error: float
    median_kl: float
    p90_kl: float
    p99_kl: float
    max_kl: float
    top1: float
    top1_error: float
    reference_perplexity: Perplexity
    perplexity: Perplexity
    perplexity_ratio: Perplexity

    @classmethod
    def of(cls, kl: Floats, same: Floats, loss: Floats, other_loss: Floats) -> Divergence:
        """Compute the figures of P > 0 positions, all (P,).

        `same` is 1 if both prefer the same token; the losses are −log p of the next token, the reference's first.
        """
        n = len(kl)
        p50, p90, p99 = map(float, np.quantile(kl, [0.5, 0.9, 0.99]))
        top1 = float(same.mean())
        return cls(
            positions=n, mean_kl=float(kl.mean()),
            mean_kl_error=float(kl.std(ddof=1)) / n**0.5 if n > 1 else 0.0,
            median_kl=p50, p90_kl=p90, p99_kl=p99, max_kl=float(kl.max()),
            top1=top1, top1_error=(top1 * (1 - top1) / n) ** 0.5,
            reference_perplexity=perplexity(loss), perplexity=perplexity(other_loss),
            perplexity_ratio=perplexity(other_loss - loss),
        )  # fmt: skip
