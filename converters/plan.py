"""Plan of a conversion: the source rows of each output tensor. It needs only the config, tensor names and shapes.

`plan` reports all errors at once (unknown, missing and misshapen tensors, rows unused or used twice,
config values that the target does not support), before any output is opened.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from converters import encode
from converters.hfconfig import HfConfig
from converters.source_tensor import SourceTensor, data_bytes
from converters.spec import ArchSpec, Dims, IntArray, SourceRows, TensorSpec
from turbopilot.base.errors import TensorMismatch
from turbopilot.base.quoting import quoted, shortened
from turbopilot.formats.tensor_summary import bytes_by_type

MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """Rows of one source tensor; `rows` is None for all rows in order."""

    source: SourceTensor
    rows: IntArray | None
    transpose: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the target, outermost first."""
        n, *row = self.source.shape[::-1] if self.transpose else self.source.shape
        return (n if self.rows is None else len(self.rows), *row)


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One output tensor; `shape` is outermost first. A tensor without parts is filled with zeros."""

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
        """Size in the output in bytes."""
        return data_bytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Plan:
    """Content of the output; tensors in file order."""

    spec: ArchSpec
    dims: Dims
    keys: dict[str, Any]
    tensors: tuple[PlannedTensor, ...]
    dropped: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Size of all tensors in the output in bytes."""
        return sum(t.n_bytes for t in self.tensors)

    @property
    def n_weights(self) -> int:
        """Number of elements in all tensors."""
        return sum(t.n_weights for t in self.tensors)

    @property
    def metadata(self) -> dict[str, Any]:
        """GGUF metadata: `keys` prefixed with the architecture's name."""
        return {f"{self.spec.gguf}.{key}": value for key, value in self.keys.items()}

    @property
    def sources(self) -> tuple[SourceTensor, ...]:
        """Source tensor of each part; a tensor may occur several times."""
        return tuple(part.source for t in self.tensors for part in t.parts)

    def bytes_by_type(self) -> dict[str, int]:
        """Return type → bytes in the output, largest first."""
        return bytes_by_type((t.dtype, t.n_bytes) for t in self.tensors)

    @property
    def main_type(self) -> str:
        """The type that holds the most bytes."""
        return next(iter(self.bytes_by_type()), "F32")


def plan(
    spec: ArchSpec,
    config: HfConfig,
    sources: Mapping[str, SourceTensor],
    dtype: str,
    *,
    vocab_only: bool = False,
) -> Plan:
    """Plan the whole output.

    `dtype` is the type of matrices: F32, F16, BF16, Q8_0, AUTO (keep the type of each matrix) or SOURCE (keep the
    type of each vector too). Except with SOURCE, vectors are F32, as llama.cpp requires. With Q8_0, position
    embeddings are F16 (llama.cpp does not quantize them either), and so are matrices whose rows are not whole blocks.
    `vocab_only` plans no tensors.

    Raises:
        UnsupportedModel: the target graph does not support a value in the config; lists every reason.
        TensorMismatch: the tensors do not match the config; lists every reason.
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
        title = f"{config.where}: the tensors do not match {spec.architecture}:"
        raise TensorMismatch(
            "\n  ".join((title, *faults[:MAX_LISTED], *more)),
            hint="check that the checkpoint is complete and that config.json belongs to it",
        )
    # specs list tensors by kind; files group them by layer
    tensors.sort(key=lambda t: _layer_order(t.name, dims.n_layer))
    return Plan(spec, dims, keys, tuple(tensors), dropped)


def plan_of_config(spec: ArchSpec, config: HfConfig) -> Plan:
    """Return the plan for a checkpoint that has every tensor that its config requires.

    Raises UnsupportedModel like `plan`. The sources have names and shapes but no files.
    """
    dims = spec.dims(config)
    config.raise_problems([] if config.problems else dims.problems())
    tied = config.flag("tie_word_embeddings", absent=spec.ties_by_default)
    needed = [
        part
        for t in spec.tensors
        if not (t.tied and tied) and (t.when is None or t.when(config))
        for one in _expand(t, dims.n_layer)
        for part in one.parts
    ]
    sources = {
        p.source: SourceTensor(p.source, "F32", dims.shape(p.shape), Path(), 0) for p in needed
    }
    return plan(spec, config, sources, "F32")


class _Assembly:
    """Builder of planned tensors that counts the used source rows and collects errors."""

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
            shape = (sum(p.shape[0] for p in parts), *(parts[-1].shape[1:] if parts else ()))
        return PlannedTensor(spec.name, shape, self._type(spec, shape, parts), parts)

    def _part(self, part: SourceRows) -> PlannedPart | None:
        source = self._sources.get(part.source)
        if source is None:
            self._faults.append(f"missing: {part.source}")
            return None
        expected = self._dims.shape(part.shape)
        if source.shape != expected:
            self._faults.append(
                f"misshapen: {source.name} is {source.shape}, the config requires {expected}"
            )
            self._used[part.source] = []  # its rows are not checked
            return None
        movable = self._dtype == "AUTO" and source.dtype in encode.BLOCKS
        if source.dtype not in encode.NUMPY_DTYPES and not movable:
            self._faults.append(
                f"unsupported type: {source.name} is {source.dtype}; use an unquantized checkpoint"
            )
        every = np.arange(source.shape[0])
        rows = part.rows(self._dims) if part.rows else every
        self._used.setdefault(part.source, []).append(rows)
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
        if wanted == "Q8_0" and (spec.positions or shape[-1] % encode.BLOCKS[wanted][0]):
            return "F16"
        return wanted

    def dropped(self, copies: Collection[str], patterns: Iterable[str]) -> tuple[str, ...]:
        """Return unused sources that are in `copies` or match one of `patterns`."""
        unused = [n for n in self._sources if n not in self._used]
        return tuple(n for n in unused if n in copies or any(re.fullmatch(p, n) for p in patterns))

    def all_faults(self, dropped: Collection[str]) -> list[str]:
        """Return all errors: those recorded, unknown sources, and rows that are not used exactly once."""
        unknown = [n for n in self._sources if n not in self._used and n not in dropped]
        faults = self._faults + [
            f"unknown: {shortened(n)} {quoted(self._sources[n].shape)}" for n in unknown
        ]
        for name, rows in self._used.items():
            if not rows:
                continue
            counts = np.bincount(np.concatenate(rows), minlength=self._sources[name].shape[0])
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
    """Return the sources under the family's names; some exports add its prefix, others omit it."""
    if not prefix:
        return sources
    expected = {p.source for t in specs for p in t.parts}
    renamed = {}
    for name, tensor in sources.items():
        other = name.removeprefix(prefix) if name.startswith(prefix) else prefix + name
        wrong = name not in expected and other in expected and other not in sources
        renamed[other if wrong else name] = tensor
    return renamed


def _layer_order(name: str, n_layer: int) -> int:
    layer = re.match(r"blk\.(\d+)\.", name)
    if layer:
        return int(layer[1])
    return n_layer if name.startswith("output") else -1
