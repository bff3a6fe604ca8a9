"""Limits for the difference between a candidate and its reference, by GGUF type.

Noise. F32 and F16 differ only by rounding, so their limits are fixed. Quantization perturbs every weight by a known
amount, `NOISE`, but the effect depends on the model: the same type changed the logits of a random network 15 times as
much as those of a trained one. So the limit comes from the model itself: the reference runs once more with random noise
of that amount in its weights, and a candidate's distance may be `_ROOM` times the distance of that run. Over 15 types,
on a random and on a trained CodeGen, correct files had 0.4 to 1.25 times the NMSE and KL of the noise (K types have the
least, since they keep some tensors at more bits). A rotary permutation skipped in a single tensor had 4.6 times, even
in a trained model's Q4_0. With few bits per weight, no limit can reveal a fault that is smaller than the type's own
noise: a lost bias with a small effect is found in F32, mostly in F16 and Q8_0, but not in Q4_0. So verify the F32 or
F16 file too, before it is quantized.

Experts. Rounding changes which experts compute a token where two are nearly equal, in the candidate and in the run with
noise alike: on random mixtures, Q8_0 changed the logits 10 times as much as in dense models, and correct files had 0.6
to 0.85 times the NMSE of the noise. For F16, whose limits are fixed, they are widened by the effect of `ROUTING_NOISE`.
Routers are never quantized and get no noise.

Devices. GPUs round products and sums to F16 within a matrix product, which processors do not. If layers are on devices,
the limits of F32 and F16, which are fixed, are widened by the effect of `DEVICE_NOISE`. Quantized types have far more
noise of their own.

GELU. llama.cpp computes it by the tanh formula; the configs of StarCoder, WizardCoder and StableCode specify the exact
function (erf). A model file cannot compensate for this, so for such a checkpoint the limits are widened by the
difference that the tanh formula makes to the reference itself, which is run with both. By the triangle inequality, the
distance (square root of NMSE or KL) from the file to the exact model is at most the distance from the file to the tanh
model plus the distance from the tanh model to the exact model.
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
# importance matrix, or with a flat one if the type requires one (ggml 0.25.3).
WEIGHT_NOISE: Final[dict[str, float]] = {
    "Q8_0": 2.9e-5, "Q6_K": 3.2e-4, "Q5_K": 1.3e-3, "Q5_1": 1.4e-3, "Q5_0": 1.8e-3, "Q4_K": 5.1e-3,
    "Q4_1": 6.1e-3, "IQ4_NL": 5.8e-3, "IQ4_XS": 5.9e-3, "Q4_0": 7.4e-3, "MXFP4": 1.3e-2, "Q3_K": 2.3e-2,
    "IQ3_S": 2.8e-2, "IQ3_XXS": 4.6e-2, "IQ2_S": 6.2e-2, "Q2_K": 8.8e-2, "IQ2_XS": 9.0e-2,
    "IQ2_XXS": 1.2e-1, "IQ1_M": 2.0e-1, "IQ1_S": 2.4e-1, "TQ1_0": 6.5e-1, "TQ2_0": 6.5e-1,
    "NVFP4": 9.1e-3, "Q1_0": 3.6e-1, "Q2_0": 5.2e-1,
}  # fmt: skip

# llama.cpp also rounds activations to 8 bits: an error of 2.9e-5 for normally distributed ones, and up to
# 1.6e-4 if one of 32 is far larger than the others. This is twice the former, to allow for outliers.
_ACTIVATIONS: Final = 6e-5

NOISE: Final[dict[str, float]] = {
    "BF16": 2 * 2.8e-6,  # weights and activations, both with 8 bits of mantissa; measured as above
    **{name: noise + _ACTIVATIONS for name, noise in WEIGHT_NOISE.items()},
}
"""Type → relative error power of weights and activations together."""

ROUTING_NOISE: Final = 1e-6
"""Relative error power for the limits of F16 files with experts: ten times that of rounding to F16.

The few tokens that get other experts are a small sample, and their number grows with the square root of the power."""

DEVICE_NOISE: Final = 1e-5
"""Relative error power of a matrix product whose sums, of some thousand terms, are rounded to F16 after each.

Rounding to 11 bits has a relative error power of about 2e-8 (2^-22 / 12), and a sum of K terms is rounded K times.
Measured on Vulkan (Mesa's llvmpipe): NMSE 1.2e-5 of the bundled model's logits in F16, 30 times the CPU's."""

_ROOM: Final = 1.6  # the largest measured ratio of a correct file's distance to the noise is 1.25


@dataclass(frozen=True, slots=True)
class VerifyLimits:
    """Accepted maxima (for top-1, the minimum) of `Metrics`; `origin` is a sentence about their source."""

    nmse: float
    mean_kl: float
    clear_top1: float
    origin: str


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Distance between the reference and a changed copy of it; see `Metrics` for the definitions."""

    nmse: float
    mean_kl: float
    clear: int
    clear_top1: float

    @classmethod
    def of(cls, m: Metrics) -> Sensitivity:
        """Copy the figures that limits are computed from."""
        return cls(m.nmse, m.mean_kl, m.clear, m.clear_top1)


FIXED: Final[dict[str, VerifyLimits]] = {
    # In F32, only the order of summation and llama.cpp's GELU table of F16 values differ: measured NMSE 3e-9
    # (trained) to 1e-7 (random). KL is about half the variance of the difference, and logits have a
    # variance of about 10, so the limit of KL is 10 times that of NMSE.
    "F32": VerifyLimits(
        1e-6, 1e-5, 1.0, "fixed: only summation order differs; correct files have 3e-9 to 1e-7"
    ),
    # Weights of an F16 checkpoint are exact, but activations are rounded to F16: measured 2e-8 to 4e-7.
    "F16": VerifyLimits(
        1e-5, 1e-4, 0.995, "fixed: activations are rounded to F16; correct files have 2e-8 to 4e-7"
    ),
}

_BITS: Final = {name: 8 * size / block for name, block, size in GGML_TYPES.values()}
_SHARE = 0.10


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason for the verdict "failed": `check` is its identifier, `message` a sentence."""

    check: str
    message: str


def judged_type(header: GgufHeader) -> str:
    """Return the type by which to judge a file: the one with the fewest bits that holds a tenth of the weights or more.

    The tensors decide, not `general.file_type`: a Q4_K_M file, which has some Q6_K tensors, is judged as Q4_K. Vectors
    (norms, biases) are always F32 and do not count.
    """
    weights: dict[str, int] = {}
    for t in header.tensors:
        if len(t.shape) > 1:
            weights[t.type_name] = weights.get(t.type_name, 0) + t.n_weights
    total = sum(weights.values())
    large = [name for name, n in weights.items() if n >= _SHARE * total]
    return min(large, key=lambda name: _BITS[name], default="F32")


def noise_of(type_name: str) -> float | None:
    """Return the noise from which a type's limits are derived; None if they are fixed.

    Raise InvalidInput if the type has no limits.
    """
    if type_name in FIXED:
        return None
    if type_name not in NOISE:
        raise InvalidInput(
            f"no limits are known for files of type {type_name}",
            hint=f"types with known limits: {', '.join((*FIXED, *NOISE))}",
        )
    return NOISE[type_name]


def limits_for(
    type_name: str,
    noisy: Sensitivity | None = None,
    tanh: Sensitivity | None = None,
    routing: Sensitivity | None = None,
    device: Sensitivity | None = None,
) -> VerifyLimits:
    """Return a type's limits, from the reference's sensitivity to the type's noise, tanh GELU, routing and devices."""
    limits = FIXED[type_name] if noisy is None else _from(noisy, type_name)
    if routing is not None:
        what = f"other experts if activations are rounded (noise of {ROUTING_NOISE:.0e})"
        limits = _widened(limits, routing, type_name, what)
    if device is not None:
        what = f"sums that GPUs round to F16 (noise of {DEVICE_NOISE:.0e})"
        limits = _widened(limits, device, type_name, what)
    if tanh is not None:
        what = "llama.cpp's GELU (tanh formula; the checkpoint's is exact)"
        limits = _widened(limits, tanh, type_name, what)
    return limits


def _widened(limits: VerifyLimits, moved: Sensitivity, type_name: str, what: str) -> VerifyLimits:
    """Return limits that also allow a difference as large as a change makes to the reference."""
    wider = _from(moved, type_name)
    return VerifyLimits(
        nmse=min(1.0, (limits.nmse**0.5 + wider.nmse**0.5) ** 2),
        mean_kl=(limits.mean_kl**0.5 + wider.mean_kl**0.5) ** 2,
        clear_top1=max(0.0, limits.clear_top1 + wider.clear_top1 - 1),
        origin=f"{limits.origin}; widened by the effect of {what} on the reference: "
        f"NMSE {moved.nmse:.2e}, mean KL {moved.mean_kl:.2e}",
    )


def _from(moved: Sensitivity, type_name: str) -> VerifyLimits:
    n = max(1, moved.clear)
    missed = round((1 - moved.clear_top1) * n)
    # Twice the misses, plus the statistical error of a small count: k + 3·√(k + 1) + 2 is the 99.5 % upper limit
    # of a Poisson count k, within 3 % (5.3 for none, 7.4 for one, 21.4 for ten).
    slack = (2 * missed + 3 * (missed + 1) ** 0.5 + 2) / n
    return VerifyLimits(
        # An NMSE of 1 is an error as large as the logits themselves: too much for any type.
        nmse=min(1.0, _ROOM * moved.nmse),
        mean_kl=_ROOM * moved.mean_kl,
        clear_top1=max(0.0, 1 - slack),
        origin=f"{_ROOM} times the effect of noise as large as {type_name}'s on the reference: "
        f"NMSE {moved.nmse:.2e}, mean KL {moved.mean_kl:.2e}",
    )


def failures(
    m: Metrics, limits: VerifyLimits | None, type_name: str, describe: Callable[[Place], str]
) -> list[Failure]:
    """Return a failure for each exceeded limit: by how much, and the place of the largest error."""

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
            f"{type_name} requires {limits.clear_top1:.2%}"
        )
        worst = where("the first difference is", m.clear_miss_at)
        found.append(Failure("clear_top1", text + worst))
    return found


def _over(value: float, limit: float, type_name: str) -> str:
    times = value / limit
    shown = f"{times:.2g}" if times < 100 else f"{times:,.0f}"
    return f"{value:.2e} is {shown} times the limit of {limit:.2g} for {type_name}"
