"""How far a candidate may be from its reference: one table by GGUF type.

Origin of the numbers. F32 and F16 lose only rounding, so their limits are fixed. Quantization perturbs every weight by
a known amount, `NOISE`, but the effect depends on the model: the same type moved the logits of a random network 15
times as much as those of a trained one. So the limit is taken from the model itself: the reference is run once more
with random noise of that amount in its weights, and a candidate may be `_ROOM` times as far away. Over 15 types, on a
random and on a trained CodeGen, sound files were at 0.4 to 1.25 times the NMSE and the KL of the noise (K types do
best, since they keep some tensors at more bits). A rotary permutation skipped in one tensor alone was at 4.6 times even
in a trained model's Q4_0. At few bits no limit can show a fault that is smaller than the type's own noise: a lost bias
of small effect is seen at F32, mostly at F16 and Q8_0, not at Q4_0. So verify the F32 or F16 file too, before it is
quantized.

GELU. llama.cpp computes it by the tanh formula; the configs of StarCoder, WizardCoder and StableCode ask for the exact
one, by erf. No file can make up for that, so for such a checkpoint the limits are wider by the cost of the change to
the reference itself, which is run with both. By the triangle inequality, the distance (the root of NMSE, or of KL) of a
file from the exact model is at most its own from the tanh model plus that one's from the exact model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from turbopilot.base.errors import InvalidInput
from turbopilot.formats.ggml_types import GGML_TYPES
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.verify.metrics import Metrics, Place

# Measured: Σ(dequantized − weight)² / Σ weight² of 256 × 1024 standard normal weights, without an
# importance matrix, or with a flat one where the type demands it (ggml 0.25.3).
WEIGHT_NOISE: Final[dict[str, float]] = {
    "Q8_0": 2.9e-5, "Q6_K": 3.2e-4, "Q5_K": 1.3e-3, "Q5_1": 1.4e-3, "Q5_0": 1.8e-3, "Q4_K": 5.1e-3,
    "Q4_1": 6.1e-3, "IQ4_NL": 5.8e-3, "IQ4_XS": 5.9e-3, "Q4_0": 7.4e-3, "MXFP4": 1.3e-2, "Q3_K": 2.3e-2,
    "IQ3_S": 2.8e-2, "IQ3_XXS": 4.6e-2, "IQ2_S": 6.2e-2, "Q2_K": 8.8e-2, "IQ2_XS": 9.0e-2,
    "IQ2_XXS": 1.2e-1, "IQ1_M": 2.0e-1, "IQ1_S": 2.4e-1, "TQ1_0": 6.5e-1, "TQ2_0": 6.5e-1,
    "NVFP4": 9.1e-3, "Q1_0": 3.6e-1, "Q2_0": 5.2e-1,
}  # fmt: skip

# llama.cpp also rounds what the weights are multiplied with, to 8 bits: 2.9e-5 for normally distributed
# activations, and up to 1.6e-4 where one of 32 dwarfs the others. Twice the former, for outliers.
_ACTIVATIONS: Final = 6e-5

NOISE: Final[dict[str, float]] = {
    "BF16": 2 * 2.8e-6,  # weights and activations, both with 8 bits of mantissa; measured as above
    **{name: noise + _ACTIVATIONS for name, noise in WEIGHT_NOISE.items()},
}
"""Type → relative error power of weights and activations together."""

_ROOM: Final = 1.6  # the largest ratio seen of a sound file to the noise is 1.25


@dataclass(frozen=True, slots=True)
class VerifyLimits:
    """Accepted maxima (for top-1, the minimum) of `Metrics`; `origin` says in words where they come from."""

    nmse: float
    mean_kl: float
    clear_top1: float
    origin: str


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How far a change moves the reference from itself; see `Metrics` for the definitions."""

    nmse: float
    mean_kl: float
    clear: int
    clear_top1: float

    @classmethod
    def of(cls, m: Metrics) -> Sensitivity:
        """Take the figures that limits are made of."""
        return cls(m.nmse, m.mean_kl, m.clear, m.clear_top1)


FIXED: Final[dict[str, VerifyLimits]] = {
    # What is left in F32 is the order of summation and llama.cpp's GELU table of F16 values: NMSE 3e-9
    # (trained) to 1e-7 (random) seen. KL is about half the variance of the difference, and logits have a
    # variance of order 10: so it is limited to 10 times the NMSE.
    "F32": VerifyLimits(
        1e-6, 1e-5, 1.0, "fixed: only the order of sums differs; sound files: 3e-9 to 1e-7"
    ),
    # Weights of an F16 checkpoint are exact, but activations are rounded to F16: 2e-8 to 4e-7 seen.
    "F16": VerifyLimits(
        1e-5, 1e-4, 0.995, "fixed: activations are rounded to F16; sound files: 2e-8 to 4e-7"
    ),
}

_BITS: Final = {name: 8 * size / block for name, block, size in GGML_TYPES.values()}
_SHARE = 0.10


@dataclass(frozen=True, slots=True)
class Failure:
    """One reason for the verdict "failed": `check` is its name for programs, `message` a sentence."""

    check: str
    message: str


def judged_type(header: GgufHeader) -> str:
    """Return the type to judge a file as: that of fewest bits which holds at least a tenth of its weights.

    The tensors decide, not the claim `general.file_type`: a Q4_K_M file, some of whose tensors are Q6_K, is judged as
    Q4_K. Vectors (norms, biases) are always F32 and do not count.
    """
    weights: dict[str, int] = {}
    for t in header.tensors:
        if len(t.shape) > 1:
            weights[t.type_name] = weights.get(t.type_name, 0) + t.n_weights
    total = sum(weights.values())
    large = [name for name, n in weights.items() if n >= _SHARE * total]
    return min(large, key=lambda name: _BITS[name], default="F32")


def noise_of(type_name: str) -> float | None:
    """Return the noise to derive a type's limits from; None if they are fixed. Refuse types without limits."""
    if type_name in FIXED:
        return None
    if type_name not in NOISE:
        raise InvalidInput(
            f"no limits are known for files of type {type_name}",
            hint=f"types that can be judged: {', '.join((*FIXED, *NOISE))}",
        )
    return NOISE[type_name]


def limits_for(
    type_name: str, noisy: Sensitivity | None = None, tanh: Sensitivity | None = None
) -> VerifyLimits:
    """Return a type's limits, from the reference's sensitivity to the type's noise and to GELU by tanh."""
    limits = FIXED[type_name] if noisy is None else _from(noisy, type_name)
    if tanh is None:
        return limits
    wider = _from(tanh, type_name)
    return VerifyLimits(
        nmse=min(1.0, (limits.nmse**0.5 + wider.nmse**0.5) ** 2),
        mean_kl=(limits.mean_kl**0.5 + wider.mean_kl**0.5) ** 2,
        clear_top1=max(0.0, limits.clear_top1 + wider.clear_top1 - 1),
        origin=f"{limits.origin}; wider by what llama.cpp's GELU (the tanh formula; the checkpoint's is exact) "
        f"costs the reference: NMSE {tanh.nmse:.2e}, mean KL {tanh.mean_kl:.2e}",
    )


def _from(moved: Sensitivity, type_name: str) -> VerifyLimits:
    n = max(1, moved.clear)
    missed = round((1 - moved.clear_top1) * n)
    # Twice the misses, and the chance error of a small count: k + 3·√(k + 1) + 2 is the 99.5 % upper limit of a
    # Poisson count k, within 3 % (5.3 for none, 7.4 for one, 21.4 for ten).
    slack = (2 * missed + 3 * (missed + 1) ** 0.5 + 2) / n
    return VerifyLimits(
        # An error of the reference's own power is no model, whatever the type.
        nmse=min(1.0, _ROOM * moved.nmse),
        mean_kl=_ROOM * moved.mean_kl,
        clear_top1=max(0.0, 1 - slack),
        origin=f"{_ROOM} times what noise as large as {type_name}'s does to the reference itself: "
        f"NMSE {moved.nmse:.2e}, mean KL {moved.mean_kl:.2e}",
    )


def failures(
    m: Metrics, limits: VerifyLimits | None, type_name: str, describe: Callable[[Place], str]
) -> list[Failure]:
    """Return every limit that was missed: by how much, and where the error is largest."""

    def where(what: str, place: Place | None) -> str:
        return f"; {what} {describe(place)}" if place else ""

    found = []
    if m.not_finite:
        text = f"{m.not_finite:,} of {m.positions:,} positions have logits that are NaN or infinite"
        found.append(Failure("finite", text))
    if limits is None:
        return found
    if m.nmse > limits.nmse:
        worst = where(f"the largest difference, {m.max_abs:.3g}, is", m.max_abs_at)
        found.append(Failure("nmse", f"NMSE {_over(m.nmse, limits.nmse, type_name)}{worst}"))
    if m.mean_kl > limits.mean_kl:
        worst = where(f"the largest, {m.max_kl:.3g}, is", m.max_kl_at)
        text = f"mean KL {_over(m.mean_kl, limits.mean_kl, type_name)}{worst}"
        found.append(Failure("mean_kl", text))
    if m.clear_top1 < limits.clear_top1:
        text = (
            f"top-1 is equal at {m.clear_top1:.2%} of the {m.clear:,} positions with a clear first choice; "
            f"{type_name} demands {limits.clear_top1:.2%}"
        )
        worst = where("the first that differs is", m.clear_miss_at)
        found.append(Failure("clear_top1", text + worst))
    return found


def _over(value: float, limit: float, type_name: str) -> str:
    times = value / limit
    shown = f"{times:.2g}" if times < 100 else f"{times:,.0f}"
    return f"{value:.2e} is {shown} times the {limit:.2g} that {type_name} may have"
