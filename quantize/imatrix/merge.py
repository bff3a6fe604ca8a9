"""Several matrices of one model → one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantize.imatrix.matrix import Entry, Imatrix
from turbopilot.base.errors import QuantizationError

DEFAULT_CHUNK = 512  # llama-imatrix's n_ctx


def merge(matrices: Sequence[Imatrix], chunk_size: int = 0) -> Imatrix:
    """As if one run had read all their texts: each counts by its tokens.

    A matrix of the old form says how many chunks it read, and not how long they were; they are taken to be of
    `chunk_size` tokens, as llama-imatrix does, or where that is 0 as long as those of the first of today's form.

    Raises:
        QuantizationError: there is none, or two disagree about a weight's columns.
    """
    if not matrices:
        raise QuantizationError("no importance matrix to merge", hint="name one with --in-file")
    chunk_size = chunk_size or next((m.chunk_size for m in matrices if m.chunk_size), DEFAULT_CHUNK)
    entries: dict[str, Entry] = {}
    for matrix in matrices:
        for name, entry in matrix.entries.items():
            scaled = entry if matrix.chunk_size else _per_token(entry, chunk_size)
            entries[name] = _sum(name, entries[name], scaled) if name in entries else scaled
    most = max((int(e.counts.max()) for e in entries.values()), default=0)
    datasets = tuple(d for m in matrices for d in m.datasets)
    return Imatrix(entries, datasets, most // chunk_size, chunk_size)


def _per_token(entry: Entry, chunk_size: int) -> Entry:
    return Entry(entry.sums * np.float32(chunk_size), entry.counts * chunk_size)


def _sum(name: str, a: Entry, b: Entry) -> Entry:
    if a.sums.size != b.sums.size:
        raise QuantizationError(
            f"{name}: {a.sums.size:,} columns in one matrix, {b.sums.size:,} in another",
            hint="merge only matrices of the same model",
        )
    n = max(len(a.counts), len(b.counts))
    if {len(a.counts), len(b.counts)} - {1, n}:
        raise QuantizationError(
            f"{name}: {len(a.counts):,} experts in one matrix, {len(b.counts):,} in another",
            hint="merge only matrices of the same model",
        )
    sums = a.sums.reshape(n, -1) + b.sums.reshape(n, -1)
    # one count for all experts, as in the old form, holds for each of them
    return Entry(sums, np.broadcast_to(a.counts, n) + np.broadcast_to(b.counts, n))
