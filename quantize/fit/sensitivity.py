"""Loss caused by rounding each matrix of a model, measured in a child process.

For each matrix, KL(type) ≈ c · e(type). e is the relative squared rounding error of the type. The losses of all
matrices add up, because the divergence grows with the square of small changes, and the rounding errors of different
matrices are not correlated. Source: V. Malinovskii et al., "Pushing the Limits of Large Language Model Quantization
via the Linearity Theorem" (2024). c is measured for each group of matrices. Without a measurement c is 1, which
minimizes the sum of relative errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantize.fit.units import Unit
from turbopilot.base.errors import QuantizationError, ServeError
from turbopilot.base.machine import usable_cores
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.ggml_types import FLOATS
from turbopilot.llama.child import run_child
from turbopilot.llama.placement_wish import PlacementWish


@dataclass(frozen=True, slots=True)
class RoundingSensitivity:
    """Losses by matrix and type.

    Attributes:
        errors: tensor → type → relative error e, from a sample of rows.
        weight: tensor → c, the KL in nats per unit of e; 1 if it was not measured.
        scale: KL of all groups rounded at once, divided by the sum of the groups' KL.
        n_groups: measured groups; 0 if only the errors are known.
        positions: measured positions of the text for each group.
        seconds_short: shortest time that a measurement needs, if the given time was too short; otherwise 0.
    """

    errors: Mapping[str, Mapping[str, float]]
    weight: Mapping[str, float]
    scale: float = 1.0
    n_groups: int = 0
    positions: int = 0
    seconds: float = 0.0
    seconds_short: float = 0.0

    @property
    def measured(self) -> bool:
        """Whether losses are KL divergences rather than relative errors."""
        return self.n_groups > 0

    def loss(self, tensor: str, type_name: str) -> float:
        """Return the loss of a tensor in a type, in nats of KL if it was measured."""
        return self.scale * self.weight[tensor] * self.errors[tensor][type_name]

    def total(self, types: Mapping[str, str]) -> float | None:
        """Return the loss of a file with these types (tensor → type); None if a type was not measured.

        Float types have no loss.
        """
        loss = 0.0
        for name, t in types.items():
            known = self.errors.get(name, {})
            if t in known:
                loss += self.loss(name, t)
            elif known and t not in FLOATS:
                return None
        return loss


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """Text to compare predictions on, and approximate seconds to measure; 0 measures relative errors only."""

    text: str
    seconds: float = 0
    threads: int = 0
    placement: PlacementWish = PlacementWish()  # noqa: RUF009 — frozen


def find_sensitivity(
    model: Path,
    imatrix: Path | None,
    units: Sequence[Unit],
    bits: float,
    options: MeasureOptions,
    progress: Progress = silent,
) -> RoundingSensitivity:
    """Measure the sensitivities of a float GGUF, rounding groups of matrices to about `bits` per weight."""
    said: dict[str, Any] = {}

    def hear(told: Mapping[str, Any]) -> None:
        if "step" in told:
            progress(told["done"], told["of"], f"{told['step']} {told['what']}")
        else:
            said.update(told)

    job = {
        **asdict(options), "threads": options.threads or usable_cores(), "model": str(model), "bits": bits,
        "units": [asdict(u) for u in units], "imatrix": str(imatrix) if imatrix else None,
    }  # fmt: skip
    try:
        run_child("quantize.fit.llama_probe", job, on_message=hear)
    except ServeError as e:
        raise QuantizationError(
            f"{model}: while measuring sensitivities, llama.cpp {e.message}",
            hint="memory may be short: use --quick, which does not load the model",
        ) from None
    return from_probes(said)


def from_probes(said: Mapping[str, Any]) -> RoundingSensitivity:
    """Compute sensitivities from the child's {"errors", "groups", "together", "probed", "positions", "seconds"}.

    If nothing was measured, the child sends only {"errors"}, and "seconds_short" if the time was too short. Matrices
    that were not measured get the mean c. A group whose rounding changed no prediction gets a thousandth of the mean.
    """
    errors = said["errors"]
    parts = said.get("groups", ())
    if not parts:
        short = said.get("seconds_short", 0.0)
        return RoundingSensitivity(errors, dict.fromkeys(errors, 1.0), seconds_short=short)
    probed = said["probed"]
    measured = []
    for part in parts:
        noise = sum(errors[n][probed[n]] for n in part["names"])
        if noise > 0:
            measured.append((part["names"], part["kl"] / noise))
    mean = sum(c for _, c in measured) / max(1, len(measured))
    weight = dict.fromkeys(errors, mean)
    for names, c in measured:
        weight.update(dict.fromkeys(names, max(c, mean / 1000)))
    apart = sum(weight[n] * errors[n][probed[n]] for n in probed)
    return RoundingSensitivity(
        errors, weight, scale=said["together"] / apart if apart > 0 else 1.0,
        n_groups=len(parts), positions=said["positions"], seconds=said["seconds"],
    )  # fmt: skip
