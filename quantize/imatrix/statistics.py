"""Statistics of importance matrices, as in llama-imatrix --show-statistics (tools/imatrix/imatrix.cpp)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from quantize.imatrix.matrix import Entry, Imatrix

_ACTIVE = 1e-5  # channels with a lower mean square are inactive
_LAYER = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """Statistics of the mean squares `a` of a weight's `n` input channels.

    Experts that saw no token are left out.

    Attributes:
        total: Σ a.
        active: share of channels with a > 1e-5.
        entropy: entropy of a / Σ a, divided by log2 n; 1 if all channels are equal.
        outliers: share of channels with `a` more than one σ above the mean.
        similarity: cosine similarity of the sums with those of the same weight one layer earlier.
    """

    name: str
    layer: int | None
    n: int
    total: float
    least: float
    most: float
    mean: float
    deviation: float
    active: float
    entropy: float
    outliers: float
    similarity: float | None


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Averages over a layer's weights, weighted by channels; `similarity` is None for the first layer."""

    layer: int
    total: float
    outliers: float
    similarity: float | None


def statistics(imatrix: Imatrix) -> list[TensorStatistics]:
    """Return the statistics of each weight that saw tokens, largest total first."""
    found = [_of(imatrix, name, e) for name, e in imatrix.entries.items() if (e.counts > 0).any()]
    return sorted(found, key=lambda s: (-s.total, s.name))


def by_layer(tensors: list[TensorStatistics]) -> list[LayerStatistics]:
    """Return the statistics of each layer in order, without the weights outside the layers."""
    layers: dict[int, list[TensorStatistics]] = {}
    for t in tensors:
        if t.layer is not None:
            layers.setdefault(t.layer, []).append(t)
    return [
        LayerStatistics(
            layer,
            _average([(t.total, t.n) for t in own]) or 0.0,
            _average([(t.outliers, t.n) for t in own]) or 0.0,
            _average([(t.similarity, t.n) for t in own if t.similarity is not None]),
        )
        for layer, own in sorted(layers.items())
    ]


def _average(weighted: list[tuple[float, int]]) -> float | None:
    total = sum(n for _, n in weighted)
    return sum(value * n for value, n in weighted) / total if total else None


def _of(imatrix: Imatrix, name: str, entry: Entry) -> TensorStatistics:
    match = _LAYER.match(name)
    layer = int(match[1]) if match else None
    before = None
    if layer:
        before = imatrix.entries.get(name.replace(f"blk.{layer}.", f"blk.{layer - 1}.", 1))
    seen = entry.counts > 0
    a = (entry.sums[seen].astype(np.float64) / entry.counts[seen][:, None]).reshape(-1)
    total, mean, deviation = float(a.sum()), float(a.mean()), float(a.std())
    share = a[a > 0] / total if total else a[:0]
    bits = float(-(share * np.log2(share)).sum())
    similarity = None
    if before is not None and before.sums.size == entry.sums.size:
        x, y = (e.sums.reshape(-1).astype(np.float64) for e in (entry, before))
        if norms := float(np.linalg.norm(x) * np.linalg.norm(y)):
            similarity = float(x @ y) / norms
    return TensorStatistics(
        name=name, layer=layer, n=len(a), total=total, least=float(a.min()), most=float(a.max()),
        mean=mean, deviation=deviation, active=float((a > _ACTIVE).mean()),
        entropy=bits / float(np.log2(len(a))) if len(a) > 1 else 0.0,
        outliers=float((a > mean + deviation).mean()) if deviation else 0.0, similarity=similarity,
    )  # fmt: skip
