"""What rounding each matrix costs the model, and how that was found out. Starts the process that measures.

KL(type) ≈ c · e(type) for each matrix, and these add up, where e is the relative square of what the type is off by:
the divergence is at its minimum, 0, where nothing is rounded, so that it grows with the square of small changes, and
roundings of different matrices are not correlated. Source: V. Malinovskii et al., "Pushing the Limits of Large Language
Model Quantization via the Linearity Theorem" (2024). c is measured for each group of matrices; without a
measurement it is the same for all, so that the sum of relative errors is what is kept small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantize.fit.units import Unit
from quantize.tensor_types import FLOATS
from turbopilot.base.errors import QuantizationError, ServeError
from turbopilot.base.progress import Progress, silent
from turbopilot.llama.child import run_child


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Losses by matrix and type.

    Attributes:
        errors: tensor → type → relative error e, from a sample of rows.
        weight: tensor → c: KL in nats for each unit of e; 1 where it was not measured.
        scale: what the sum of groups has to be multiplied with to be that of all at once.
        n_groups: that were measured; 0 where only the errors are known.
        positions: of the text, at which each was measured.
        seconds: that measuring took.
        seconds_short: where there was no time to measure: seconds that it would have taken at least.
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
        """Whether losses are KL divergences, and not only relative errors."""
        return self.n_groups > 0

    def loss(self, tensor: str, type_name: str) -> float:
        """What the type costs, in nats of KL where it was measured."""
        return self.scale * self.weight[tensor] * self.errors[tensor][type_name]

    def total(self, types: Mapping[str, str]) -> float | None:
        """Of a whole file: tensor → type. Float types cost nothing; None where a type was not looked at."""
        loss = 0.0
        for name, t in types.items():
            known = self.errors.get(name, {})
            if t in known:
                loss += self.loss(name, t)
            elif known and t not in FLOATS:
                return None
        return loss


def find_sensitivity(
    model: Path,
    units: Sequence[Unit],
    *,
    bits: float,
    text: str,
    imatrix: Path | None = None,
    seconds: float = 0,
    threads: int,
    n_gpu_layers: int | None = None,
    progress: Progress = silent,
) -> Sensitivity:
    """Round matrices and measure.

    Args:
        model: a GGUF of floats.
        units: its matrices, with the types that come into question.
        bits: per weight that the file will have, about: groups are rounded to types near that.
        text: what predictions are measured on.
        imatrix: weighs the columns, here as when the file is written.
        seconds: for measuring, about; 0 to know the relative errors only.
        threads: that compute.
        n_gpu_layers: layers on the GPU; None is all where there is one.
        progress: told of steps.

    Raises:
        QuantizationError: llama.cpp failed.
    """
    said: dict[str, Any] = {}

    def hear(told: Mapping[str, Any]) -> None:
        if "step" in told:
            progress(told["done"], told["of"], f"{told['step']} {told['what']}")
        else:
            said.update(told)

    job = {
        "model": str(model), "units": [asdict(u) for u in units], "imatrix": str(imatrix) if imatrix else None,
        "threads": threads, "n_gpu_layers": n_gpu_layers, "text": text, "seconds": seconds, "bits": bits,
    }  # fmt: skip
    try:
        run_child("quantize.fit.llama_probe", job, on_message=hear)
    except ServeError as e:
        raise QuantizationError(
            f"{model}: llama.cpp, measuring sensitivities, {e.message}",
            hint="is memory short? --quick needs no model in memory",
        ) from None
    return from_probes(said)


def from_probes(said: Mapping[str, Any]) -> Sensitivity:
    """Of what the child told.

    That is {"errors", "groups", "together", "probed", "positions", "seconds"}; {"errors"} alone where nothing was
    measured, with "seconds_short" where the time was too short.

    A group's KL is shared out by the relative errors of its matrices. Matrices of which nothing was measured get the
    mean c, and a group in which rounding changed nothing a small one: it is not free.
    """
    errors = said["errors"]
    parts = said.get("groups", ())
    if not parts:
        short = said.get("seconds_short", 0.0)
        return Sensitivity(errors, dict.fromkeys(errors, 1.0), seconds_short=short)
    probed = said["probed"]
    noise = {id(part): sum(errors[n][probed[n]] for n in part["names"]) for part in parts}
    measured = [(part, part["kl"] / noise[id(part)]) for part in parts if noise[id(part)] > 0]
    mean = sum(c for _, c in measured) / max(1, len(measured))
    weight = dict.fromkeys(errors, mean)
    for part, c in measured:
        weight.update(dict.fromkeys(part["names"], max(c, mean / 1000)))
    apart = sum(weight[n] * errors[n][probed[n]] for n in probed)
    return Sensitivity(
        errors, weight, scale=said["together"] / apart if apart > 0 else 1.0,
        n_groups=len(parts), positions=said["positions"], seconds=said["seconds"],
    )  # fmt: skip
