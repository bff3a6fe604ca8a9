"""What was measured of a file: speeds, memory, divergence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from turbopilot.base.kl_divergence import Floats, Perplexity, perplexity
from turbopilot.llama.log import Buffers


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second.

    Attributes:
        tokens: of each repeat.
        samples: a rate for each repeat, in their order.
    """

    tokens: int
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure that is reported."""
        return median(self.samples)

    @property
    def spread(self) -> float:
        """Half of the difference between the slowest and the fastest."""
        return (max(self.samples) - min(self.samples)) / 2

    def joined(self, other: Rate) -> Rate:
        """Add the repeats of another round."""
        return Rate(self.tokens, self.samples + other.samples)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the process in which the model was loaded and used.

    Attributes:
        peak: the most of main memory that it ever had, Python and llama.cpp's library included.
        base: what it had before the model was loaded.
        now: what it had at the end: if a file's weights are rearranged at loading, the peak is above it.
        needed: what it has once the mapped file's pages were dropped and those that it needs read again; `now` if
            the system cannot do that.
        of_files: pages of the mapped file in `now`, which the system may drop and read again; 0 if the system does
            not report them.
        buffers: what llama.cpp logged that it allocated.
        devices: name → bytes taken of a graphics processor's memory since before the model was loaded, by all
            processes: its driver reports nothing finer.
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
    """A file, as it ran.

    Attributes:
        path: of the file.
        type_name: the type that holds the most bytes.
        n_bytes: size of the file, of all its parts.
        bits_per_weight: over all tensors.
        n_ctx: cells of the context that it was given.
        n_threads: threads that computed.
        cache_type: of keys and values.
        devices: graphics processors that llama.cpp had.
        llama_cpp: version of llama-cpp-python.
        built_for: what llama.cpp reports of its build and the processor.
        prompt: prompt tokens read per second.
        generation: tokens generated per second, behind the prompt.
        memory: None if it was not asked for.
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


@dataclass(frozen=True, slots=True)
class Divergence:
    """A file against a reference, over P positions of a text. Divergences in nats, as KL(reference ‖ file).

    Attributes:
        positions: P.
        mean_kl: over all positions.
        mean_kl_error: standard error of that, as if positions were independent, which within a window they are not.
        median_kl: half are below.
        p90_kl: nine of ten are below.
        p99_kl: 99 of a hundred are below.
        max_kl: the largest.
        top1: share of positions where both prefer the same token.
        top1_error: its standard error, likewise.
        reference_perplexity: of the text.
        perplexity: the file's.
        perplexity_ratio: file's by reference's; its error is that of the paired difference.
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
        """Compute the figures of P > 0 positions.

        Args:
            kl: (P,) nats.
            same: (P,) 1 if the first choices are the same, else 0.
            loss: (P,) the reference's −log p of the token that follows.
            other_loss: (P,) the file's.
        """
        n = len(kl)
        p50, p90, p99 = np.quantile(kl, [0.5, 0.9, 0.99])
        top1 = float(same.mean())
        return cls(
            positions=n,
            mean_kl=float(kl.mean()),
            mean_kl_error=float(kl.std(ddof=1)) / n**0.5 if n > 1 else 0.0,
            median_kl=float(p50),
            p90_kl=float(p90),
            p99_kl=float(p99),
            max_kl=float(kl.max()),
            top1=top1,
            top1_error=(top1 * (1 - top1) / n) ** 0.5,
            reference_perplexity=perplexity(loss),
            perplexity=perplexity(other_loss),
            perplexity_ratio=perplexity(other_loss - loss),
        )
