"""Plan before bytes: which rows of which tensors make which. Pure over config, names and shapes.

`plan` finds every fault at once (unknown, missing and misshapen tensors, rows used twice or not at all,
config values that the target does not compute), before any output is opened.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from converters.hfconfig import HfConfig
from converters.safetensors_file import SourceTensor
from converters.spec import ArchSpec, Dims, IntArray, TensorSpec
from turbopilot.errors import TensorMismatch

FLOAT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """Rows of one source; `rows` None means all, in order."""

    source: SourceTensor
    rows: IntArray | None
    transpose: bool


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
        return prod(self.shape) * FLOAT_BYTES[self.dtype]


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


def plan(spec: ArchSpec, config: HfConfig, sources: Mapping[str, SourceTensor], dtype: str) -> Plan:
    """Decide the whole output. `dtype` (F32 or F16) is that of matrices; vectors stay F32.

    Raises:
        UnsupportedModel: the config asks for what the target's graph does not compute.
        TensorMismatch: the tensors are not those of the config. Either lists every reason.
    """
    config.require(spec.require)
    dims = spec.dims(config)
    keys = {k.name: v for k in spec.keys if (v := k.value(config, dims)) is not None}
    geometry = [] if config.problems else dims.problems() or spec.check(dims)
    config.raise_problems(geometry)

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
        return PlannedTensor(spec.name, shape, "F32" if len(shape) == 1 else dtype, ())
    parts: list[PlannedPart] = []
    n_rows = 0
    tail: tuple[int, ...] = ()
    for part in spec.parts:
        source = sources.get(part.source)
        if source is None:
            faults.append(f"missing: {part.source}")
            continue
        rows = part.rows(dims) if part.rows else None
        expected = dims.shape(part.shape)
        if source.shape != expected:
            faults.append(f"misshapen: {source.name} is {source.shape}, the config says {expected}")
            used[part.source] = [np.arange(source.shape[0] if source.shape else 0)]
            continue
        if source.dtype not in FLOAT_BYTES:
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
    return PlannedTensor(spec.name, shape, "F32" if len(shape) == 1 else dtype, tuple(parts))


def _coverage(source: SourceTensor, rows: list[IntArray]) -> str:
    """A fault unless the targets together use every row of a source exactly once."""
    counts = np.bincount(np.concatenate(rows), minlength=source.shape[0] if source.shape else 0)
    if (counts != 1).any():
        return (
            f"rows of {source.name}: {(counts == 0).sum()} unused, {(counts > 1).sum()} used twice"
        )
    return ""


def render(p: Plan) -> str:
    """The plan as text, one line a tensor, layers folded: for `--dry-run` and for reading in tests."""
    d = p.dims
    lines = [
        f"{p.spec.architecture} → {p.spec.gguf}",
        f"D={d.n_embd} L={d.n_layer} H={d.n_head} K={d.n_head_kv} d={d.head_dim} F={d.n_inner} "
        f"V={d.n_vocab} T={d.n_ctx} R={d.rotary_dim}",
        *(f"{p.spec.gguf}.{k} = {v}" for k, v in p.keys.items()),
    ]
    for t in p.tensors:
        layer = re.match(r"blk\.(\d+)\.", t.name)
        if layer and layer[1] != "0":
            continue
        times = f" × {d.n_layer}" if layer else ""
        origin = " + ".join(_origin(part) for part in t.parts) or "zeros"
        lines.append(f"{t.name}{times}  {t.dtype} {list(t.shape)} ← {origin}")
    if p.dropped:
        kinds = sorted({re.sub(r"\d+", "{i}", n) for n in p.dropped})
        lines.append(f"dropped {len(p.dropped)}: {', '.join(kinds)}")
    return "\n".join(lines) + "\n"


def _origin(part: PlannedPart) -> str:
    name = part.source.name + ("ᵀ" if part.transpose else "")
    if part.rows is None:
        return name
    head = " ".join(str(r) for r in part.rows[:6])
    return f"{name}[{head} … crc {zlib.crc32(part.rows.astype('<i8').tobytes()):08x}]"
