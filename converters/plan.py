"""Plan of a conversion: the source rows of each output tensor. It needs only the config, tensor names and shapes.

`plan` reports all errors at once (unknown, missing and misshapen tensors, rows unused or used twice,
config values that the target does not support), before any output is opened.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from converters import encode
from converters.hfconfig import HfConfig
from converters.planned import Plan, PlannedPart, PlannedTensor
from converters.source_tensor import SourceTensor
from converters.spec import ArchSpec, Dims, IntArray, SourceRows, TensorSpec
from turbopilot.base.errors import TensorMismatch
from turbopilot.base.quoting import quoted, shortened

MAX_LISTED = 20


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

    specs = [one for t in spec.tensors for one in _expand(t, dims)]
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
        for one in _expand(t, dims)
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
        self._used: dict[str, list[IntArray | None]] = {}
        self._faults: list[str] = []

    def put_together(self, spec: TensorSpec) -> PlannedTensor:
        forms = (spec.parts, *spec.others)
        stored = (f for f in forms if any(p.source in self._sources for p in f))
        parts = tuple(p for part in next(stored, spec.parts) for p in self._pieces(part))
        shape = self._dims.shape(spec.shape)
        if spec.parts and not shape:
            shape = (sum(p.shape[0] for p in parts), *(parts[-1].shape[1:] if parts else ()))
        return PlannedTensor(spec.name, shape, self._type(spec, shape, parts), parts)

    def _pieces(self, part: SourceRows) -> list[PlannedPart]:
        whole = self._part(part)
        if whole is None or not part.each:
            return [whole] if whole else []
        rows = np.arange(whole.source.shape[0]) if whole.rows is None else whole.rows
        return [replace(whole, rows=r) for r in np.split(rows, self._dims.size(part.each))]

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
        scale = part.scale(self._dims) if part.scale else 1.0
        computed = scale != 1 or part.offset != 0
        movable = self._dtype == "AUTO" and source.dtype in encode.BLOCKS and not computed
        if source.dtype not in encode.NUMPY_DTYPES and not movable:
            self._faults.append(
                f"unsupported type: {source.name} is {source.dtype}; use an unquantized checkpoint"
            )
        if len(source.shape) > 2:
            source = replace(source, shape=(prod(source.shape[:-1]), source.shape[-1]))
        rows = part.rows(self._dims) if part.rows else None
        if rows is not None and np.array_equal(rows, np.arange(source.shape[0])):
            rows = None
        self._used.setdefault(part.source, []).append(rows)
        return PlannedPart(source, rows, part.transpose, scale, part.offset)

    def _type(
        self, spec: TensorSpec, shape: tuple[int, ...], parts: tuple[PlannedPart, ...]
    ) -> str:
        wanted = self._dtype
        own = {p.source.dtype for p in parts}
        if wanted == "SOURCE" or (wanted == "AUTO" and len(shape) > 1 and not spec.exact):
            return own.pop() if len(own) == 1 else "F32"
        if len(shape) == 1 or spec.exact:
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
        for name, used in self._used.items():
            if not used or (len(used) == 1 and used[0] is None):  # unchecked, or every row once
                continue
            shape = self._sources[name].shape
            n = prod(shape[:-1]) if len(shape) > 2 else shape[0]
            rows = [np.arange(n) if r is None else r for r in used]
            counts = np.bincount(np.concatenate(rows), minlength=n)
            if (counts != 1).any():
                unused, twice = (counts == 0).sum(), (counts > 1).sum()
                faults.append(
                    f"rows of {self._sources[name].name}: {unused} unused, {twice} used twice"
                )
        return list(dict.fromkeys(faults))


def _expand(template: TensorSpec, dims: Dims) -> list[TensorSpec]:
    """Return the tensor for each layer that has it, with a part for each numbered source tensor."""
    if "{i}" not in template.name:
        return [template]
    layers = template.layers(dims) if template.layers else range(dims.n_layer)

    def numbered(parts: tuple[SourceRows, ...], i: int) -> tuple[SourceRows, ...]:
        in_layer = (replace(p, source=p.source.replace("{i}", str(i))) for p in parts)
        return tuple(one for p in in_layer for one in _each(p, dims))

    return [
        replace(
            template,
            name=template.name.replace("{i}", str(i)),
            parts=numbered(template.parts, i),
            others=tuple(numbered(parts, i) for parts in template.others),
        )
        for i in layers
    ]


def _each(part: SourceRows, dims: Dims) -> list[SourceRows]:
    """Return a part for each source tensor that "{e}" numbers."""
    if "{e}" not in part.source:
        return [part]
    names = (part.source.replace("{e}", str(e)) for e in range(dims.size(part.each)))
    return [replace(part, source=name, each="") for name in names]


def _with_prefix(
    sources: Mapping[str, SourceTensor], specs: list[TensorSpec], prefix: str
) -> Mapping[str, SourceTensor]:
    """Return the sources under the family's names; some exports add its prefix, others omit it."""
    if not prefix:
        return sources
    expected = {p.source for t in specs for parts in (t.parts, *t.others) for p in parts}
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
