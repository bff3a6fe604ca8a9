"""Plan before bytes: which rows of which tensors make which. Pure over config, names and shapes.

`plan` finds every fault at once (unknown, missing and misshapen tensors, rows used twice or not at all,
config values that the target does not compute), before any output is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from converters import encode
from converters.hfconfig import HfConfig
from converters.source_tensor import SourceTensor
from converters.spec import ArchSpec, Dims, IntArray, TensorSpec
from turbopilot.base.errors import TensorMismatch

DTYPES = ("F32", "F16", "BF16", "Q8_0", "AUTO", "SOURCE")
MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """Rows of one source; `rows` None means all, in order."""

    source: SourceTensor
    rows: IntArray | None
    transpose: bool

    @property
    def unchanged(self) -> bool:
        """Whether it is the source as it lies in the file."""
        return self.rows is None and not self.transpose


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the output: `shape` outermost first; no parts means zeros."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[PlannedPart, ...]

    @property
    def n_weights(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Size of its data in the output."""
        return encode.size(self.dtype, prod(self.shape))


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will be written, in order."""

    spec: ArchSpec
    dims: Dims
    keys: dict[str, Any]
    tensors: tuple[PlannedTensor, ...]
    dropped: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Size of all tensor data in the output."""
        return sum(t.n_bytes for t in self.tensors)

    @property
    def sources(self) -> tuple[SourceTensor, ...]:
        """The tensors that are read, some more than once."""
        return tuple(part.source for t in self.tensors for part in t.parts)

    def bytes_by_type(self) -> dict[str, int]:
        """Type → bytes in the output, largest first."""
        sizes: dict[str, int] = {}
        for t in self.tensors:
            sizes[t.dtype] = sizes.get(t.dtype, 0) + t.n_bytes
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))

    @property
    def main_type(self) -> str:
        """The type that holds the most bytes: what the file is said to be "in"."""
        return next(iter(self.bytes_by_type()), "F32")


def plan(
    spec: ArchSpec,
    config: HfConfig,
    sources: Mapping[str, SourceTensor],
    dtype: str,
    *,
    vocab_only: bool = False,
) -> Plan:
    """Decide the whole output.

    Args:
        spec: the family.
        config: of the checkpoint.
        sources: its tensors by name.
        dtype: one of `DTYPES`, for matrices; AUTO keeps each one's own. Vectors are F32 always, as
            llama.cpp demands. Rows that are not whole blocks of Q8_0, and tables of positions, which
            llama.cpp does not quantize either, are F16 then. SOURCE keeps vectors too, for checkpoints.
        vocab_only: no tensors; only the config is looked at.

    Raises:
        UnsupportedModel: the config asks for what the target's graph does not compute.
        TensorMismatch: the tensors are not those of the config. Either lists every reason.
    """
    config.require(spec.require)
    dims = spec.dims(config)
    keys = {k.name: v for k in spec.keys if (v := k.value(config, dims)) is not None}
    geometry = [] if config.problems else dims.problems() or spec.check(dims)
    config.raise_problems(geometry)
    if vocab_only:
        return Plan(spec, dims, keys, (), ())

    specs = [one for t in spec.tensors for one in _expand(t, dims.n_layer)]
    sources = _with_prefix(sources, specs, spec.prefix)
    tied = config.flag("tie_word_embeddings", absent=spec.ties_by_default)
    faults: list[str] = []
    used: dict[str, list[IntArray]] = {}
    tensors = [
        _plan_tensor(t, dims, sources, dtype, used, faults)
        for t in specs
        if not (t.tied and tied) and (t.when is None or t.when(config))
    ]
    copies = {p.source for t in specs if t.tied and tied for p in t.parts}
    dropped = tuple(
        n
        for n in sources
        if n not in used and (n in copies or any(re.fullmatch(p, n) for p in spec.drop))
    )
    unknown = [n for n in sources if n not in used and n not in dropped]
    faults += [f"unknown: {n} {sources[n].shape}" for n in unknown]
    faults += [fault for n, rows in used.items() if (fault := _coverage(sources[n], rows))]
    faults = list(dict.fromkeys(faults))
    if faults:
        more = [f"… and {len(faults) - MAX_LISTED} more"] if len(faults) > MAX_LISTED else []
        raise TensorMismatch(
            "\n  ".join(
                (
                    f"{config.where}: the tensors are not those of {spec.architecture}:",
                    *faults[:MAX_LISTED],
                    *more,
                )
            ),
            hint="is the checkpoint complete, and does config.json belong to it?",
        )
    # group by layer, as files are read and loaded: specs are written kind by kind
    tensors.sort(key=lambda t: _layer_order(t.name, dims.n_layer))
    return Plan(spec, dims, keys, tuple(tensors), dropped)


def _expand(template: TensorSpec, n_layer: int) -> list[TensorSpec]:
    if "{i}" not in template.name:
        return [template]
    return [
        replace(
            template,
            name=template.name.replace("{i}", str(i)),
            parts=tuple(replace(p, source=p.source.replace("{i}", str(i))) for p in template.parts),
        )
        for i in range(n_layer)
    ]


def _with_prefix(
    sources: Mapping[str, SourceTensor], specs: list[TensorSpec], prefix: str
) -> Mapping[str, SourceTensor]:
    """The sources by the names that the family uses: some exports add or lack its prefix."""
    if not prefix:
        return sources
    expected = {p.source for t in specs for p in t.parts}
    renamed = {}
    for name, tensor in sources.items():
        other = name.removeprefix(prefix) if name.startswith(prefix) else prefix + name
        renamed[
            other if name not in expected and other in expected and other not in sources else name
        ] = tensor
    return renamed


def _layer_order(name: str, n_layer: int) -> int:
    layer = re.match(r"blk\.(\d+)\.", name)
    if layer:
        return int(layer[1])
    return n_layer if name.startswith("output") else -1


def _plan_tensor(
    spec: TensorSpec,
    dims: Dims,
    sources: Mapping[str, SourceTensor],
    dtype: str,
    used: dict[str, list[IntArray]],
    faults: list[str],
) -> PlannedTensor:
    if not spec.parts:
        shape = dims.shape(spec.shape)
        return PlannedTensor(spec.name, shape, _dtype(spec, shape, dtype, ()), ())
    parts: list[PlannedPart] = []
    n_rows = 0
    tail: tuple[int, ...] = ()
    for part in spec.parts:
        source = sources.get(part.source)
        if source is None:
            faults.append(f"missing: {part.source}")
            continue
        rows = _unless_identity(part.rows(dims)) if part.rows else None
        expected = dims.shape(part.shape)
        if source.shape != expected:
            faults.append(f"misshapen: {source.name} is {source.shape}, the config says {expected}")
            used[part.source] = [np.arange(source.shape[0] if source.shape else 0)]
            continue
        if source.dtype not in encode.NUMPY_DTYPES and (
            source.dtype not in encode.BLOCKS or dtype != "AUTO"
        ):
            faults.append(
                f"not a float type we know: {source.name} is {source.dtype}; take an unquantized checkpoint"
            )
        used.setdefault(part.source, []).append(
            np.arange(source.shape[0]) if rows is None else rows
        )
        seen = source.shape[::-1] if part.transpose else source.shape
        n_rows += seen[0] if rows is None else len(rows)
        tail = seen[1:]
        parts.append(PlannedPart(source, rows, part.transpose))
    shape = (n_rows, *tail)
    return PlannedTensor(spec.name, shape, _dtype(spec, shape, dtype, tuple(parts)), tuple(parts))


def _unless_identity(rows: IntArray) -> IntArray | None:
    """None where every row is at its place already, so that it is copied as it lies."""
    return None if np.array_equal(rows, np.arange(len(rows))) else rows


def _dtype(
    spec: TensorSpec, shape: tuple[int, ...], wanted: str, parts: tuple[PlannedPart, ...]
) -> str:
    own = {p.source.dtype for p in parts}
    if wanted == "SOURCE" or (wanted == "AUTO" and len(shape) > 1):
        return own.pop() if len(own) == 1 else "F32"
    if len(shape) == 1:
        return "F32"
    if wanted == "Q8_0" and (spec.positions or not encode.fits(wanted, shape[-1])):
        return "F16"
    return wanted


def _coverage(source: SourceTensor, rows: list[IntArray]) -> str:
    """A fault unless the targets together use every row of a source exactly once."""
    counts = np.bincount(np.concatenate(rows), minlength=source.shape[0] if source.shape else 0)
    if (counts != 1).any():
        return (
            f"rows of {source.name}: {(counts == 0).sum()} unused, {(counts > 1).sum()} used twice"
        )
    return ""
