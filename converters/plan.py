"""Plan before bytes: which rows of which tensors make which. Pure over config, names and shapes.

`plan` finds every fault at once (unknown, missing and misshapen tensors, rows used twice or not at all,
config values that the target does not compute), before any output is opened.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from converters import encode
from converters.hfconfig import HfConfig
from converters.source_tensor import SourceTensor, data_bytes
from converters.spec import ArchSpec, Dims, IntArray, SourceRows, TensorSpec
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
    def n_rows(self) -> int:
        """Rows of the target that it makes."""
        if self.rows is not None:
            return len(self.rows)
        return self.source.shape[-1 if self.transpose else 0]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of each."""
        return (self.source.shape[::-1] if self.transpose else self.source.shape)[1:]

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
        return data_bytes(self.dtype, self.shape)


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
    def n_weights(self) -> int:
        """Number of elements in all tensors."""
        return sum(t.n_weights for t in self.tensors)

    @property
    def metadata(self) -> dict[str, Any]:
        """`keys` under the architecture's name, as GGUF has them."""
        return {f"{self.spec.gguf}.{key}": value for key, value in self.keys.items()}

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

    `dtype` is one of `DTYPES`, for matrices; AUTO keeps each one's own. Vectors are F32 always, as llama.cpp
    demands. With Q8_0, rows that are not whole blocks are F16, and so are tables of positions, which llama.cpp
    does not quantize either. SOURCE keeps vectors too, for checkpoints. `vocab_only` plans no tensors.

    Raises:
        UnsupportedModel: the config asks for what the target's graph does not compute.
        TensorMismatch: the tensors are not those of the config. Either lists every reason.
    """
    config.require(spec.require)
    dims = spec.dims(config)
    keys = {k.name: v for k in spec.keys if (v := k.value(config, dims)) is not None}
    config.raise_problems([] if config.problems else dims.problems() or spec.check(dims))
    if vocab_only:
        return Plan(spec, dims, keys, (), ())

    specs = [one for t in spec.tensors for one in _expand(t, dims.n_layer)]
    tied = config.flag("tie_word_embeddings", absent=spec.ties_by_default)
    parts = _Assembly(_with_prefix(sources, specs, spec.prefix), dims, dtype)
    tensors = [
        parts.put_together(t)
        for t in specs
        if not (t.tied and tied) and (t.when is None or t.when(config))
    ]
    copies = {p.source for t in specs if t.tied and tied for p in t.parts}
    dropped = parts.dropped(copies, spec.drop)
    if faults := parts.all_faults(dropped):
        more = [f"… and {len(faults) - MAX_LISTED} more"] if len(faults) > MAX_LISTED else []
        title = f"{config.where}: the tensors are not those of {spec.architecture}:"
        raise TensorMismatch(
            "\n  ".join((title, *faults[:MAX_LISTED], *more)),
            hint="is the checkpoint complete, and does config.json belong to it?",
        )
    # group by layer, as files are read and loaded: specs are written kind by kind
    tensors.sort(key=lambda t: _layer_order(t.name, dims.n_layer))
    return Plan(spec, dims, keys, tuple(tensors), dropped)


class _Assembly:
    """Targets put together from sources. Counts the rows that are used, and notes every fault."""

    def __init__(self, sources: Mapping[str, SourceTensor], dims: Dims, dtype: str) -> None:
        self._sources = sources
        self._dims = dims
        self._dtype = dtype
        self._used: dict[str, list[IntArray]] = {}
        self._faults: list[str] = []

    def put_together(self, spec: TensorSpec) -> PlannedTensor:
        parts = tuple(p for part in spec.parts if (p := self._part(part)))
        shape = self._dims.shape(spec.shape)
        if spec.parts:
            shape = (sum(p.n_rows for p in parts), *(parts[-1].row_shape if parts else ()))
        return PlannedTensor(spec.name, shape, self._type(spec, shape, parts), parts)

    def _part(self, part: SourceRows) -> PlannedPart | None:
        source = self._sources.get(part.source)
        if source is None:
            self._faults.append(f"missing: {part.source}")
            return None
        expected = self._dims.shape(part.shape)
        if source.shape != expected:
            self._faults.append(
                f"misshapen: {source.name} is {source.shape}, the config says {expected}"
            )
            self._used[part.source] = [np.arange(source.shape[0] if source.shape else 0)]
            return None
        movable = self._dtype == "AUTO" and source.dtype in encode.BLOCKS
        if source.dtype not in encode.NUMPY_DTYPES and not movable:
            self._faults.append(
                f"not a float type we know: {source.name} is {source.dtype}; take an unquantized checkpoint"
            )
        every = np.arange(source.shape[0])
        rows = part.rows(self._dims) if part.rows else every
        self._used.setdefault(part.source, []).append(rows)
        # rows that are all at their places already are copied as they lie
        order = None if np.array_equal(rows, every) else rows
        return PlannedPart(source, order, part.transpose)

    def _type(
        self, spec: TensorSpec, shape: tuple[int, ...], parts: tuple[PlannedPart, ...]
    ) -> str:
        wanted = self._dtype
        own = {p.source.dtype for p in parts}
        if wanted == "SOURCE" or (wanted == "AUTO" and len(shape) > 1):
            return own.pop() if len(own) == 1 else "F32"
        if len(shape) == 1:
            return "F32"
        if wanted == "Q8_0" and (spec.positions or not encode.fits(wanted, shape[-1])):
            return "F16"
        return wanted

    def dropped(self, copies: Collection[str], patterns: Iterable[str]) -> tuple[str, ...]:
        """The unused sources that repeat another, or carry nothing."""
        unused = [n for n in self._sources if n not in self._used]
        return tuple(n for n in unused if n in copies or any(re.fullmatch(p, n) for p in patterns))

    def all_faults(self, dropped: Collection[str]) -> list[str]:
        """Every fault once: those noted, unknown sources, and rows not used exactly once."""
        unknown = [n for n in self._sources if n not in self._used and n not in dropped]
        faults = self._faults + [f"unknown: {n} {self._sources[n].shape}" for n in unknown]
        for name, rows in self._used.items():
            shape = self._sources[name].shape
            counts = np.bincount(np.concatenate(rows), minlength=shape[0] if shape else 0)
            if (counts != 1).any():
                unused, twice = (counts == 0).sum(), (counts > 1).sum()
                faults.append(
                    f"rows of {self._sources[name].name}: {unused} unused, {twice} used twice"
                )
        return list(dict.fromkeys(faults))


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
