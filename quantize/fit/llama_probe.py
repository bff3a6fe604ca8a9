"""Child process that measures how sensitive a model is to rounding; see `quantize.fit.sensitivity`.

First, sampled rows of each matrix are rounded to each type to measure the relative error. Then groups of matrices are
rounded in memory, one group at a time, to measure the KL divergence of the model's predictions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quantize.fit.probed_model import WINDOW, ProbedModel
from quantize.fit.rounding import Rows, from_float32, relative_error
from quantize.fit.units import SEARCHED, Unit, groups
from quantize.imatrix import read_imatrix
from turbopilot.base.errors import QuantizationError
from turbopilot.base.kl_divergence import Logits
from turbopilot.formats.ggml_types import BLOCKS
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.llama.child import run_job, send
from turbopilot.llama.placement_wish import PlacementWish
from turbopilot.llama.rounding import Floats, Rounding

_SAMPLED: Final = 12_000_000  # weights rounded to each type, in all matrices together
_LEAST_ROWS: Final = 16
_CHUNK_ROWS: Final = 256  # rows rounded by a thread at a time
_BANDS: Final = (16, 8, 4, 2, 1)
_MOST_WINDOWS: Final = 8
_OVERHEAD: Final = 1.3  # factor for rounding and comparing, in addition to the passes over the text
_KEPT_BYTES: Final = 400_000_000  # limit for the reference's logits
# Near 4 bits the rounding error is well above that of F16, and small enough that losses add up.
_PROBE_BITS: Final = (3.0, 4.6)


def main() -> None:
    """Read {"model", "units", "imatrix"} and `MeasureOptions`; send progress and the input of `from_probes`."""
    run_job(_measure)


def _measure(job: dict[str, Any]) -> None:
    units = [
        Unit(**{**u, "shape": tuple(u["shape"]), "types": tuple(u["types"])}) for u in job["units"]
    ]
    header = read_gguf(Path(job["model"]))
    matrices = _Matrices(header, job["imatrix"], job["threads"])
    each, errors = _SAMPLED // max(1, len(units)), {}
    jobs = matrices.pool.map(lambda u: matrices.error(u, each), units)
    for i, (unit, found) in enumerate(zip(units, jobs, strict=True)):
        errors[unit.name] = found
        _send_step("rounding", i + 1, len(units), unit.name)
    send({"errors": errors})
    if job["seconds"] > 0:
        model = ProbedModel(header, job["threads"], PlacementWish.from_json(job["placement"]))
        _Probe(model, units, matrices, job).run()


class _Matrices:
    """Weights of the file, rounded on several threads."""

    def __init__(self, header: GgufHeader, imatrix: str | None, threads: int) -> None:
        self.tensors = {t.name: t for t in header.tensors}
        self.means = read_imatrix(Path(imatrix)).means() if imatrix else {}
        self.rounding = Rounding()
        self.pool = ThreadPoolExecutor(threads)

    def importance(self, unit: Unit, first_row: int) -> Floats | None:
        """Return the importance (C,) of the matrix that the row belongs to; None without an importance matrix."""
        means = self.means.get(unit.name)
        if means is None:
            return None
        columns, rows = unit.shape[:2]
        which = first_row // rows
        found: Floats = means[which * columns : (which + 1) * columns]
        return found if found.size == columns else means[:columns]

    def error(self, unit: Unit, n_weights: int) -> dict[str, float]:
        """Return the relative error of each type, from rows spread over the first matrix of the unit."""
        rows = Rows(self.tensors[unit.name])
        n = min(unit.shape[1], max(_LEAST_ROWS, n_weights // unit.shape[0]))
        some = rows.take(np.linspace(0, unit.shape[1] - 1, n).astype(np.int64))
        h = self.importance(unit, 0)
        return {t: relative_error(some, self.rounding.rounded(some, t, h), h) for t in unit.types}

    def original(self, unit: Unit) -> npt.NDArray[Any]:
        """Return all rows in the type of the file."""
        return Rows(self.tensors[unit.name]).values

    def rounded(self, unit: Unit, type_name: str) -> npt.NDArray[Any]:
        """Return all rows rounded to `type_name`, in the type of the file."""
        rows = Rows(self.tensors[unit.name])
        out = np.empty_like(rows.values)
        per_matrix = unit.shape[1]

        def work(start: int) -> None:
            # A chunk never contains rows of two matrices, because their importance differs.
            stop = min(start + _CHUNK_ROWS, (start // per_matrix + 1) * per_matrix)
            some = rows.take(np.arange(start, stop))
            back = self.rounding.rounded(some, type_name, self.importance(unit, start))
            out[start:stop] = from_float32(back, rows.tensor.type_name)

        for matrix in range(0, rows.n_rows, per_matrix):
            list(self.pool.map(work, range(matrix, matrix + per_matrix, _CHUNK_ROWS)))
        return out


def _send_step(step: str, done: int, of: int, what: str) -> None:
    send({"step": step, "done": done, "of": of, "what": what})


class _Probe:
    """Measurement of one group of matrices at a time, then of all at once.

    Groups are as small as the time allows.
    """

    def __init__(
        self, model: ProbedModel, units: Sequence[Unit], matrices: _Matrices, job: dict[str, Any]
    ) -> None:
        self.model, self.units, self.matrices = model, units, matrices
        self.seconds: float = job["seconds"]
        self.types = {u.name: _probe_type(u, job["bits"]) for u in units}
        most = min(_MOST_WINDOWS, max(1, _KEPT_BYTES // (4 * WINDOW * model.n_vocab)))
        self.windows = model.windows(job["text"], most)
        if not self.windows:
            raise QuantizationError(
                f"the text has fewer than {WINDOW} tokens", hint="give a longer text"
            )

    def run(self) -> None:
        began = time.monotonic()
        bands = self._fit_into_the_time()
        if not bands:
            return
        reference = [self.model.logits(w).copy() for w in self.windows]
        parts = groups(self.units, bands)
        found = []
        for i, part in enumerate(parts):
            _send_step("measuring", i, len(parts) + 1, f"{part[0].role} {part[0].layer}")
            if time.monotonic() - began > 2 * self.seconds + 60:  # the machine slowed down
                break
            kl = self._rounded(part, reference)
            for u in part:
                self.model.write(u.name, self.matrices.original(u))
            found.append({"names": [u.name for u in part], "kl": kl})
        _send_step("measuring", len(parts), len(parts) + 1, "all at once")
        together = self._rounded(self.units, reference)
        send(
            {
                "groups": found, "together": together, "probed": self.types, "bands": bands,
                "positions": sum(len(r) for r in reference), "seconds": time.monotonic() - began,
            }
        )  # fmt: skip

    def _rounded(self, part: Sequence[Unit], reference: Sequence[Logits]) -> float:
        for u in part:
            self.model.write(u.name, self.matrices.rounded(u, self.types[u.name]))
        return self.model.divergence(self.windows, reference)

    def _fit_into_the_time(self) -> int:
        """Choose the number of windows, and return the number of layer bands; 0 if the time is too short."""
        self.model.logits(self.windows[0])  # warm-up
        started = time.monotonic()
        self.model.logits(self.windows[0])
        each = (time.monotonic() - started) * _OVERHEAD
        outside = sum(u.layer < 0 for u in self.units)
        n_roles = len({u.role for u in self.units if u.layer >= 0})
        passes = self.seconds / each
        # Many groups with few positions are better than few groups with many positions: allow for 4 bands first,
        # then more text, then more bands.
        most = int(max(1, passes // (4 * n_roles + outside + 2)))
        self.windows = self.windows[:most]
        affordable = passes / len(self.windows) - 2 - outside
        n_layers = max(u.layer for u in self.units) + 1
        bands = next((b for b in _BANDS if b <= n_layers and b * n_roles <= affordable), 0)
        if not bands:
            send({"seconds_short": (n_roles + outside + 2) * each})
        return bands


def _probe_type(unit: Unit, bits: float) -> str:
    """Return the type whose bits per weight are nearest to the average of the file."""
    low, high = _PROBE_BITS
    wanted = min(max(bits, low), high)
    usable = [t for t in unit.types if t not in SEARCHED] or list(unit.types)

    return min(usable, key=lambda t: abs(8 * BLOCKS[t][1] / BLOCKS[t][0] - wanted))


if __name__ == "__main__":
    main()
