"""The process that finds out how sensitive a model is. The only module here that imports llama_cpp for it.

Started by `quantize.fit.sensitivity`. First each matrix is rounded to each type, some rows of it, for the relative
error; then, unless only that is wanted, groups of matrices are rounded in memory, one group at a time, and the
KL divergence of the model's predictions is measured.
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
from quantize.fit.rounding import Floats, Rounding, Rows, from_float32, relative_error
from quantize.fit.units import SEARCHED, Unit, groups
from quantize.imatrix import read_imatrix
from quantize.tensor_types import BLOCKS
from turbopilot.base.errors import QuantizationError, TurboPilotError
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.child import leave, listen, read_job, tell

_SAMPLED: Final = 12_000_000  # weights that are rounded to each type, of all matrices together
_LEAST_ROWS: Final = 16
_CHUNK_ROWS: Final = 256  # rows rounded by a thread at a time
_BANDS: Final = (16, 8, 4, 2, 1)
_MOST_WINDOWS: Final = 8
_OVERHEAD: Final = 1.3  # rounding and comparing, beside the passes over the text
_KEPT_BYTES: Final = 400_000_000  # of the reference's logits
# Probes are made where the noise is well above what F16 rounds, and small enough to add up: near 4 bits.
_PROBE_BITS: Final = (3.0, 4.6)


def main() -> None:
    """Read {"model", "units", "imatrix", "threads", "n_gpu_layers", "text", "seconds", "bits"}; tell what was found."""
    job = read_job()
    import llama_cpp
    from llama_cpp._ggml import libggml

    listen(llama_cpp)
    try:
        units = [
            Unit(**{**u, "shape": tuple(u["shape"]), "types": tuple(u["types"])})
            for u in job["units"]
        ]
        matrices = _Matrices(Path(job["model"]), job["imatrix"], Rounding(libggml), job["threads"])
        tell({"errors": _errors(units, matrices)})
        if job["seconds"] > 0:
            model = ProbedModel(
                llama_cpp, libggml, Path(job["model"]), job["threads"], job["n_gpu_layers"]
            )
            _probe(model, units, matrices, job)
    except (TurboPilotError, RuntimeError) as e:
        tell({"failed": str(e), "hint": getattr(e, "hint", "")})
        leave(1)
    leave(0)


class _Matrices:
    """The weights in the file, and their rounding, on several threads."""

    def __init__(self, path: Path, imatrix: str | None, rounding: Rounding, threads: int) -> None:
        rounding.check()
        self.tensors = {t.name: t for t in read_gguf(path).tensors}
        self.means = read_imatrix(Path(imatrix)).means() if imatrix else {}
        self.rounding = rounding
        self.pool = ThreadPoolExecutor(threads)

    def importance(self, unit: Unit, first_row: int) -> Floats | None:
        """(C,) of the matrix that a row belongs to."""
        means = self.means.get(unit.name)
        if means is None:
            return None
        columns, rows = unit.shape[:2]
        which = first_row // rows
        found: Floats = means[which * columns : (which + 1) * columns]
        return found if found.size == columns else means[:columns]

    def error(self, unit: Unit, n_weights: int) -> dict[str, float]:
        """Relative error of each type, from rows spread over the first of the unit's matrices."""
        rows = Rows(self.tensors[unit.name])
        n = min(unit.shape[1], max(_LEAST_ROWS, n_weights // unit.shape[0]))
        some = rows.take(np.linspace(0, unit.shape[1] - 1, n).astype(np.int64))
        h = self.importance(unit, 0)
        return {t: relative_error(some, self.rounding.rounded(some, t, h), h) for t in unit.types}

    def original(self, unit: Unit) -> npt.NDArray[Any]:
        """The whole of it, as the file has it."""
        return Rows(self.tensors[unit.name]).values

    def rounded(self, unit: Unit, type_name: str) -> npt.NDArray[Any]:
        """The whole of it, through a type and back, as the file has it."""
        rows = Rows(self.tensors[unit.name])
        out = np.empty(
            (rows.n_rows, rows.n_columns),
            from_float32(np.zeros(1, np.float32), rows.tensor.type_name).dtype,
        )
        per_matrix = unit.shape[1]

        def work(start: int) -> None:
            # A chunk never holds rows of two matrices, whose channels matter differently.
            stop = min(start + _CHUNK_ROWS, (start // per_matrix + 1) * per_matrix)
            some = rows.take(np.arange(start, stop))
            back = self.rounding.rounded(some, type_name, self.importance(unit, start))
            out[start:stop] = from_float32(back, rows.tensor.type_name)

        starts = [
            m + r
            for m in range(0, rows.n_rows, per_matrix)
            for r in range(0, per_matrix, _CHUNK_ROWS)
        ]
        list(self.pool.map(work, starts))
        return out


def _errors(units: Sequence[Unit], matrices: _Matrices) -> dict[str, dict[str, float]]:
    each = _SAMPLED // max(1, len(units))
    found = {}
    jobs = matrices.pool.map(lambda u: matrices.error(u, each), units)
    for i, (unit, errors) in enumerate(zip(units, jobs, strict=True)):
        found[unit.name] = errors
        tell({"step": "rounding", "done": i + 1, "of": len(units), "what": unit.name})
    return found


def _probe(
    model: ProbedModel, units: Sequence[Unit], matrices: _Matrices, job: dict[str, Any]
) -> None:
    """One group at a time, then all at once; as finely as the time allows."""
    began = time.monotonic()
    most = min(_MOST_WINDOWS, max(1, _KEPT_BYTES // (4 * WINDOW * model.n_vocab)))
    windows = model.windows(job["text"], most)
    if not windows:
        raise QuantizationError(
            f"the text has fewer than {WINDOW} tokens", hint="give a longer one"
        )
    model.logits(windows[0])  # warm
    started = time.monotonic()
    model.logits(windows[0])
    once = time.monotonic() - started
    outside = sum(u.layer < 0 for u in units)
    n_roles = len({u.role for u in units if u.layer >= 0})
    passes = job["seconds"] / (once * _OVERHEAD)
    # Rather a few positions of many groups than many of few: 4 bands first, then text, then finer bands.
    n_windows = int(min(len(windows), max(1, passes // (4 * n_roles + outside + 2))))
    windows = windows[:n_windows]
    affordable = passes / n_windows - 2 - outside
    n_layers = max(u.layer for u in units) + 1
    bands = next((b for b in _BANDS if b <= n_layers and b * n_roles <= affordable), 0)
    if not bands:
        tell({"seconds_short": (n_roles + outside + 2) * once * _OVERHEAD})
        return
    reference = [model.logits(w).copy() for w in windows]
    parts = groups(units, bands)
    kinds = {u.name: _probe_type(u, job["bits"]) for u in units}
    found = []
    for i, part in enumerate(parts):
        tell(
            {
                "step": "measuring",
                "done": i,
                "of": len(parts) + 1,
                "what": f"{part[0].role} {part[0].layer}",
            }
        )
        if (
            time.monotonic() - began > 2 * job["seconds"] + 60
        ):  # something slowed us down: what is there will do
            break
        for u in part:
            model.write(u.name, matrices.rounded(u, kinds[u.name]))
        kl = model.divergence(windows, reference)
        for u in part:
            model.write(u.name, matrices.original(u))
        found.append({"names": [u.name for u in part], "kl": kl})
    tell({"step": "measuring", "done": len(parts), "of": len(parts) + 1, "what": "all at once"})
    for u in units:
        model.write(u.name, matrices.rounded(u, kinds[u.name]))
    together = model.divergence(windows, reference)
    tell(
        {
            "groups": found, "together": together, "probed": kinds, "bands": bands,
            "positions": sum(len(r) for r in reference), "seconds": time.monotonic() - began,
        }
    )  # fmt: skip


def _probe_type(unit: Unit, bits: float) -> str:
    """The type whose bits are nearest to those that the file will have on average."""
    low, high = _PROBE_BITS
    wanted = min(max(bits, low), high)
    usable = [t for t in unit.types if t not in SEARCHED] or list(unit.types)

    def distance(t: str) -> float:
        weights, n_bytes = BLOCKS[t]
        return abs(8 * n_bytes / weights - wanted)

    return min(usable, key=distance)


if __name__ == "__main__":
    main()
