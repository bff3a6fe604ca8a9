"""An importance matrix: its values, whether it is of a model, and several made one.

Letters: M matrices stacked in one tensor (the experts of a mixture, else 1), C columns (input channels).
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
    """What came into one weight of the model.

    Attributes:
        sums: (M, C), over all tokens, of each input channel's square.
        counts: (M,), tokens that each matrix saw; 0 for an expert that was never chosen.
    """

    sums: Floats
    counts: Counts


@dataclass(frozen=True, slots=True)
class Imatrix:
    """The mean square of every matmul's input channels over a text.

    Attributes:
        entries: the weight's name → what came into it.
        datasets: names of the texts.
        n_chunks: pieces of text that were read.
        chunk_size: tokens in each.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...]
    n_chunks: int
    chunk_size: int

    def means(self) -> dict[str, Floats]:
        """The weight's name → (M·C,), as llama-quantize hands them to llama.cpp's quantizer.

        The arithmetic is its own, in float32. An expert that saw no token gets ones: all its columns count alike.
        Source: llama.cpp, tools/quantize/quantize.cpp, load_imatrix.
        """
        return {name: _mean(entry) for name, entry in self.entries.items()}


def _mean(entry: Entry) -> Floats:
    counts = entry.counts.astype(np.float32)[:, None]
    means: Floats = np.where(counts > 0, entry.sums / np.maximum(counts, 1), np.float32(1))
    return means.reshape(-1)


def check_matrix(imatrix: Imatrix, header: GgufHeader) -> None:
    """Refuse a matrix that was gathered from another model.

    llama.cpp silently quantizes without a matrix what it does not name, so that a wrong one would go unnoticed. That
    some weights (the embedding, an output head) are missing is usual.

    Raises:
        QuantizationError: the model lacks weights of the matrix, or their sizes differ; the first are named.
    """
    tensors = {t.name: t for t in header.tensors}
    wrong = []
    for name, entry in imatrix.entries.items():
        if (
            " (" in name
        ):  # "… (view)": a part of a weight, which llama-imatrix notes and nothing uses
            continue
        if (tensor := tensors.get(name)) is None:
            wrong.append(f"{name}: the model has none")
            continue
        # llama.cpp: as many values as the matrices of the tensor have columns together
        columns = tensor.shape[0] * (tensor.shape[2] if len(tensor.shape) > 2 else 1)
        if entry.sums.size != columns:
            wrong.append(f"{name}: {entry.sums.size:,} columns, the model's has {columns:,}")
    if wrong:
        more = [f"and {len(wrong) - _SHOWN:,} more"] if len(wrong) > _SHOWN else []
        listed = "\n  ".join([*wrong[:_SHOWN], *more])
        raise QuantizationError(
            f"the importance matrix is not of {header.path}:\n  {listed}",
            hint=f"gather one from this model: turbopilot imatrix {header.path}",
        )


def merge(matrices: Sequence[Imatrix], chunk_size: int = 0) -> Imatrix:
    """Add up matrices of one model, as if one run had read all their texts.

    Args:
        matrices: at least one.
        chunk_size: tokens, in which the result counts its chunks; 0 is the first matrix's.

    Raises:
        QuantizationError: two matrices disagree about a weight's columns or experts.
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
    # One count for all matrices of a stack, as `collect.dense` has it, holds for each of them.
    sums = a.sums.reshape(n, -1) + b.sums.reshape(n, -1)
    return Entry(sums, np.broadcast_to(a.counts, n) + np.broadcast_to(b.counts, n))
