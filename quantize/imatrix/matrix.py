"""Importance matrices, with functions to check and merge them.

M is the number of matrices stacked in one tensor (the experts of a mixture, otherwise 1), C the number of columns
(input channels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from turbopilot.base.errors import QuantizationError
from turbopilot.formats.gguf.file import GgufHeader

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """Sums (M, C) of squared inputs over all tokens, and counts (M,) of tokens, of one weight."""

    sums: Floats
    counts: Counts


@dataclass(frozen=True, slots=True)
class Imatrix:
    """Importance matrix of a model.

    `entries` maps weight names to entries, and `datasets` are the names of the texts. `n_chunks` chunks of `chunk_size`
    tokens were read.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...]
    n_chunks: int
    chunk_size: int

    def means(self) -> dict[str, Floats]:
        """Return the mean squares of each weight, (M·C,) float32, as llama-quantize computes them.

        An expert that saw no token gets ones. Source: llama.cpp, tools/quantize/quantize.cpp, load_imatrix.
        """
        found: dict[str, Floats] = {}
        for name, entry in self.entries.items():
            counts = entry.counts.astype(np.float32)[:, None]
            means = np.where(counts > 0, entry.sums / np.maximum(counts, 1), np.float32(1))
            found[name] = means.reshape(-1)
        return found


def check_matrix(imatrix: Imatrix, header: GgufHeader) -> None:
    """Raise QuantizationError if the matrix was gathered from another model.

    llama.cpp silently ignores entries with unknown names. Some weights (the embedding, the output head) may have no
    entry.
    """
    tensors = {t.name: t for t in header.tensors}
    wrong = []
    for name, entry in imatrix.entries.items():
        if " (" in name:  # "… (view)", a part of a weight: written by llama-imatrix, but never used
            continue
        if (tensor := tensors.get(name)) is None:
            wrong.append(f"{name}: the model has no such tensor")
            continue
        # llama.cpp expects the columns of all matrices of the tensor.
        columns = tensor.shape[0] * (tensor.shape[2] if len(tensor.shape) > 2 else 1)
        if entry.sums.size != columns:
            wrong.append(f"{name}: {entry.sums.size:,} columns, the model has {columns:,}")
    if wrong:
        more = [f"and {len(wrong) - _SHOWN:,} more"] if len(wrong) > _SHOWN else []
        listed = "\n  ".join([*wrong[:_SHOWN], *more])
        raise QuantizationError(
            f"the importance matrix does not belong to {header.path}:\n  {listed}",
            hint=f"gather one from this model: turbopilot imatrix {header.path}",
        )


def merge(matrices: Sequence[Imatrix], chunk_size: int = 0) -> Imatrix:
    """Add up one or more importance matrices of a model, as if one run had read all their texts.

    `chunk_size` is the chunk size of the result in tokens; 0 takes that of the first matrix.
    """
    chunk_size = chunk_size or matrices[0].chunk_size
    entries: dict[str, Entry] = {}
    for matrix in matrices:
        for name, entry in matrix.entries.items():
            entries[name] = _sum(name, entries[name], entry) if name in entries else entry
    most = max((int(e.counts.max()) for e in entries.values()), default=0)
    datasets = tuple(d for m in matrices for d in m.datasets)
    return Imatrix(entries, datasets, most // chunk_size, chunk_size)


def _sum(name: str, a: Entry, b: Entry) -> Entry:
    n = max(len(a.counts), len(b.counts))
    if a.sums.size != b.sums.size or {len(a.counts), len(b.counts)} - {1, n}:
        raise QuantizationError(
            f"{name}: {len(a.counts):,} × {a.sums.shape[1]:,} columns in one matrix, "
            f"{len(b.counts):,} × {b.sums.shape[1]:,} in another",
            hint="merge only matrices of the same model",
        )
    # A single count (see `collect.dense`) applies to each matrix of a stack.
    sums = a.sums.reshape(n, -1) + b.sums.reshape(n, -1)
    return Entry(sums, np.broadcast_to(a.counts, n) + np.broadcast_to(b.counts, n))
