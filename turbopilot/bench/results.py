"""Results of measuring a file: speed, memory, divergence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from turbopilot.base.kl_divergence import Floats, Perplexity, perplexity
from turbopilot.llama.log import Buffers


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second in several repeats.

    `tokens` is the number of tokens in each repeat, and `samples` has the speed of each repeat.
    """

    tokens: int
    samples: tuple[float, ...]

    @classmethod
    def of(cls, tokens: int, samples: list[float]) -> Rate | None:
        """Return the rate of these repeats; None if there are none."""
        return cls(tokens, tuple(samples)) if samples else None

    @property
    def median(self) -> float:
        """Median of the samples."""
        return median(self.samples)

    @property
    def spread(self) -> float:
        """Half of the difference between the slowest and the fastest sample."""
        return (max(self.samples) - min(self.samples)) / 2

    def joined(self, other: Rate) -> Rate:
        """Return the rate with the repeats of `other` added."""
        return Rate(self.tokens, self.samples + other.samples)


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of the process that loaded and ran the model.

    Attributes:
        peak: maximum, including Python and llama.cpp's library.
        base: before the model was loaded.
        now: at the end; below the peak if weights were repacked when the model was loaded.
        needed: after the pages of the mapped file were dropped and the used ones read again; `now` if the system does
            not support this.
        of_files: pages of the mapped file in `now`, which the system may drop; 0 if it does not report them.
        buffers: llama.cpp's allocations, from its log.
        devices: device name → GPU memory that all processes have taken since before the model was loaded.
        placed: device name → llama.cpp's buffers there. A driver takes some memory in addition.
    """

    peak: int
    base: int
    now: int
    needed: int
    of_files: int
    buffers: Buffers
    devices: dict[str, int]
    placed: dict[str, int]


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of one file.

    Attributes:
        type_name: type of the most bytes.
        n_bytes: size of all parts of the file.
        n_ctx: cells of the KV cache.
        devices: GPUs that llama.cpp could use.
        built_for: llama.cpp's description of its build and the processor.
        prompt: prefill speed.
        generation: decode speed after the prompt.
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
        """Return the measurements with the rates of `other` added."""
        rates = {
            name: rate.joined(getattr(other, name))
            for name in ("prompt", "generation")
            if (rate := getattr(self, name)) is not None
        }
        return replace(self, **rates)


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(reference ‖ file) in nats over the positions of a text.

    `top1` is the share of positions at which both predict the same most likely token. Standard errors assume that
    positions are independent, although they are not within a window. `perplexity_ratio` is file / reference, with the
    standard error of the paired difference.
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
        """Compute the figures of P > 0 positions; all arrays are (P,).

        `same` is 1 if both predict the same token. `loss` and `other_loss` are −log p of the next token, for the
        reference and the file.
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
