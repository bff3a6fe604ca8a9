"""Sums gathered so far, and the file from which an interrupted run resumes.

The file is an .npz of float64 sums, which the importance matrix format cannot store, and a JSON text that describes
them. A resumed run therefore writes the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantize.imatrix.matrix import Counts, Entry, Imatrix
from turbopilot.base.atomic import replacing
from turbopilot.base.errors import QuantizationError

Doubles = npt.NDArray[np.float64]
_FORM = 1  # version of the file format


@dataclass(slots=True)
class Gathered:
    """Sums over the chunks read so far.

    `sums` maps weights to (M, C), `counts` maps them to (M,). `nll` is the sum of the negative log-likelihoods of
    `n_scored` tokens.
    """

    sums: dict[str, Doubles] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    n_chunks: int = 0
    nll: float = 0.0
    n_scored: int = 0

    @property
    def perplexity(self) -> float:
        """Perplexity on the second halves of the chunks; NaN before the first chunk."""
        return math.exp(min(self.nll / self.n_scored, 700)) if self.n_scored else math.nan

    def add(self, name: str, sums: Doubles, counts: Counts) -> None:
        """Add the sums (M, C) and counts (M,) of one matmul."""
        if not np.isfinite(sums).all():
            raise QuantizationError(
                f"{name}: its input is not finite (NaN, infinite or too large)",
                hint="the model is damaged, or overflows in this type: run turbopilot verify",
            )
        if name not in self.sums:
            self.sums[name], self.counts[name] = sums.copy(), counts.copy()
        elif self.sums[name].shape != sums.shape:
            raise QuantizationError(
                f"{name}: the shape of its sums changed from {self.sums[name].shape} to {sums.shape}",
                hint="an importance matrix cannot represent how llama.cpp computes this model",
            )
        else:
            self.sums[name] += sums
            self.counts[name] += counts

    def imatrix(self, dataset: str, chunk_size: int) -> Imatrix:
        """Return the importance matrix, rounded to float32."""
        entries = {
            name: Entry(sums.astype(np.float32), self.counts[name])
            for name, sums in sorted(self.sums.items())
        }
        return Imatrix(entries, (dataset,), self.n_chunks, chunk_size)

    def save(self, path: Path, fingerprint: dict[str, Any]) -> None:
        """Write the resume file."""
        names = sorted(self.sums)
        about = {
            "form": _FORM, "fingerprint": fingerprint, "names": names, "n_chunks": self.n_chunks,
            "nll": self.nll, "n_scored": self.n_scored,
        }  # fmt: skip
        arrays: dict[str, Any] = {f"sums{i}": self.sums[name] for i, name in enumerate(names)}
        arrays |= {f"counts{i}": self.counts[name] for i, name in enumerate(names)}
        with replacing(path) as part, part.open("wb") as f:
            np.savez(f, about=np.array(json.dumps(about)), **arrays)


def load_gathered(path: Path, fingerprint: dict[str, Any]) -> Gathered | str:
    """Read a resume file; return the reason as a string if it is damaged or belongs to another run."""
    try:
        # np.load leaves a path's file open if reading it fails
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["form"] != _FORM or about["fingerprint"] != fingerprint:
                return "it belongs to another model, text or setting"
            names = about["names"]
            found = Gathered(
                {name: file[f"sums{i}"] for i, name in enumerate(names)},
                {name: file[f"counts{i}"] for i, name in enumerate(names)},
                int(about["n_chunks"]), float(about["nll"]), int(about["n_scored"]),
            )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as e:
        return f"it cannot be read: {e}"
    for name, sums in found.sums.items():
        counts = found.counts[name]
        shapes = sums.ndim == 2 and counts.shape == sums.shape[:1]
        if not (shapes and sums.dtype == np.float64 and counts.dtype == np.int64):
            return f"it is damaged at {name}"
    return found
