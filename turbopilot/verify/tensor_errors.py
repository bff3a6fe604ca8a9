"""Error of each tensor of a GGUF relative to its expected values, row by row; `tensor_faults` finds the cause.

The caller passes the expected values as a `TargetModel`, because `verify` does not depend on the converters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.file import GgufHeader, TensorInfo, read_gguf
from turbopilot.verify.criteria import WEIGHT_NOISE
from turbopilot.verify.row_examination import MeasuredTensor, examine, holds_levels
from turbopilot.verify.row_figures import StoredRows, measure
from turbopilot.verify.row_words import describe
from turbopilot.verify.tensor_faults import Array, Order, Suspect, corner, fault

if TYPE_CHECKING:
    from turbopilot.llama.rounding import Rounding

# `WEIGHT_NOISE` is for normally distributed weights; outliers and importance matrices change the error.
_ROOM: Final = 3.0
# Rounding errors of the unquantized types: F32 keeps 24 significant bits, F16 11, BF16 8.
_EXACT: Final = {"F32": 1e-14, "F16": 2e-7, "BF16": 1e-5}


@dataclass(frozen=True, slots=True)
class TargetTensor:
    """Expected contents of one tensor of a GGUF."""

    name: str  # in the GGUF
    shape: tuple[int, ...]  # outermost first
    source: str  # names of the checkpoint tensors that it comes from
    order: Order | None  # source row of each row; None if in the source's order
    read: Callable[[], Array]  # returns its values
    noise: float = (
        0.0  # relative error power of the values; rows are compared only if they are exact
    )


@dataclass(frozen=True, slots=True)
class TargetModel:
    """Expected metadata and tensors of a GGUF."""

    metadata: Mapping[str, Any]
    tensors: Sequence[TargetTensor]


@contextmanager
def gguf_target(path: Path) -> Iterator[TargetModel]:
    """Use the contents of another GGUF file as the target."""
    header = read_gguf(path)
    ours = ("general.architecture", "tokenizer.ggml.", f"{header.architecture}.")
    metadata = {key: value for key, value in header.metadata.items() if key.startswith(ours)}
    tensors = [
        TargetTensor(t.name, t.shape[::-1], t.name, None, partial(dequantized, t), _noise(t))
        for t in header.tensors
    ]
    yield TargetModel(metadata, tensors)


@dataclass(frozen=True, slots=True)
class TensorError:
    """Error of one tensor, and its cause."""

    name: str  # in the GGUF
    type_name: str  # its GGUF type
    shape: tuple[int, ...]  # outermost first
    source: str  # names of the checkpoint tensors that it comes from
    relative: float  # Σ(tensor − target)² / Σ target²; inf if it is missing or not finite
    max_abs: float  # the largest difference of a weight
    allowed: float  # the largest relative error that its type may have
    cause: str = ""  # a key of `diagnosis.CAUSES`, or "" if the tensor is right
    detail: str = ""  # description of the cause
    rows: int = 0  # number of rows that were compared one by one
    # Whether ggml makes its rows with the known importance matrix; None if that was not tried.
    reproduced: bool | None = None

    @property
    def wrong(self) -> bool:
        """Whether the error is larger than the type allows, or a row has more error than it explains."""
        return bool(self.cause) or not self.relative <= self.allowed


def tensor_errors(
    header: GgufHeader,
    target: TargetModel,
    progress: Progress = silent,
    *,
    only_vectors: bool = False,
    importance: Mapping[str, Array] = MappingProxyType({}),
) -> list[TensorError]:
    """Return the error of every tensor, the largest relative to the allowed error first.

    If `only_vectors`, skip matrices. Norms and biases are small and stored unrounded, so a lost one is found here
    whatever the type of the file, while the logits of a file with few bits hardly show it. `importance` is the matrix
    that the file was quantized with: for each tensor the mean squares of its input channels, (M·C,) for M matrices.
    """
    infos = {t.name: t for t in header.tensors if not only_vectors or len(t.shape) == 1}
    wanted = {t.name: t for t in target.tensors if not only_vectors or len(t.shape) == 1}
    corners, measured = {}, {}
    found = []
    ggml = _ggml()
    for i, (name, should) in enumerate(wanted.items()):
        progress(i, len(wanted), f"tensor {name}")
        values = should.read()
        corners[name] = corner(values)
        info = infos.get(name)
        error = _unmeasured(should, info)
        if info and not error.cause:
            known = importance.get(name)
            weights = None if known is None else known.reshape(-1, info.shape[0])
            stored = StoredRows(info, ggml, weights)
            measured[name] = MeasuredTensor(stored, *measure(stored, _matrix(values)))
            error = _sized(info, should, measured[name])
        found.append(error)
    for name in infos.keys() - wanted.keys():
        found.append(_unmeasured(None, infos[name]))
    # Whether a rule holds in a file is known when all tensors are.
    by_levels = holds_levels(measured.values())
    seek = CauseSearch(corners, _head_size(header), by_levels=by_levels)
    explained = [
        e if e.cause else seek.explained(e, measured[e.name], wanted[e.name]) for e in found
    ]
    return sorted(explained, key=lambda e: -(e.relative / e.allowed if e.allowed else np.inf))


def _ggml() -> Rounding:
    from turbopilot.llama.rounding import Rounding  # imports llama.cpp

    return Rounding()


def dequantized(info: TensorInfo) -> Array:
    """Return a tensor's values as float32, outermost dimension first."""
    return StoredRows(info, _ggml()).values(slice(None)).reshape(info.shape[::-1])


def _matrix(values: Array) -> Array:
    """Return values as rows, (R, C); a vector is one row."""
    return np.ascontiguousarray(values).reshape(-1, values.shape[-1])


def _noise(info: TensorInfo) -> float:
    """Return the relative error power of a tensor of another file, which is 0 for F32."""
    kind = info.type_name
    return 0.0 if kind == "F32" else _EXACT.get(kind, WEIGHT_NOISE.get(kind, 1.0))


def _sized(info: TensorInfo, should: TargetTensor, found: MeasuredTensor) -> TensorError:
    """Return the error of a whole tensor."""
    error, power = float(found.figures.error.sum()), float(found.figures.power.sum())
    relative = error / power if power else (np.inf if error else 0.0)
    finite = np.isfinite(relative) or not power
    allowed = _EXACT.get(info.type_name, _ROOM * WEIGHT_NOISE.get(info.type_name, 1.0))
    return TensorError(
        info.name, info.type_name, info.shape[::-1], should.source, relative if finite else np.inf,
        float(found.figures.largest.max()) if finite else np.inf, allowed + _ROOM * should.noise,
        rows=0 if should.noise else found.stored.n_rows,
        reproduced=found.reproduced if found.stored.needs_matrix and not should.noise else None,
    )  # fmt: skip


def _unmeasured(should: TargetTensor | None, info: TensorInfo | None) -> TensorError:
    """Return an error without figures; it has a cause if the file or the target lacks the tensor, or shapes differ."""
    expected = should.shape if should else ()
    shape = info.shape[::-1] if info else expected
    name = should.name if should else info.name if info else ""
    cause, detail = "", ""
    if should is None:
        cause, detail = "surplus", "is not expected"
    elif info is None:
        cause, detail = "missing", "is missing from the file"
    elif shape != expected:
        cause, detail = "shape", f"has shape {shape}, not {expected}"
    kind, source = info.type_name if info else "", should.source if should else ""
    return TensorError(name, kind, shape, source, np.inf, np.inf, 0.0, cause, detail)


@dataclass(frozen=True, slots=True)
class CauseSearch:
    """Search for the causes of wrong tensors."""

    corners: Mapping[str, Array]  # tensor name → corner of its expected values
    head_size: int  # rows of an attention head; 0 if unknown
    by_levels: bool  # whether the file's quantizer chose the nearest levels

    def explained(
        self, error: TensorError, found: MeasuredTensor, should: TargetTensor
    ) -> TensorError:
        """Return the error with its cause filled in; unchanged if the tensor is right."""
        gross = not error.relative <= error.allowed
        by_row = not should.noise
        if not gross and not (by_row and found.suspicious(by_levels=self.by_levels)):
            return error
        values = should.read()
        rows = _matrix(values)
        wrong = examine(found, rows, by_levels=self.by_levels) if by_row else None
        described = describe(wrong, rows, error.type_name) if wrong and wrong.any else None
        if not gross and not described:
            return error
        suspect = Suspect(
            error.name, error.type_name, dequantized(found.stored.info), values, error.relative, should.order,
            self.head_size,
        )  # fmt: skip
        times = error.relative / error.allowed
        noise = ("noise", f"has {times:.1f} times the error that {error.type_name} may have")
        few = described if wrong and wrong.few else None
        cause, detail = few or fault(suspect, self.corners) or described or noise
        return replace(error, cause=cause, detail=detail)


def _head_size(header: GgufHeader) -> int:
    """Return the rows of an attention head; 0 if the metadata does not give them."""
    arch, metadata = header.architecture, header.metadata
    keys = (
        "attention.key_length_mla",
        "attention.key_length",
        "embedding_length",
        "attention.head_count",
    )
    latent, explicit, width, heads = (metadata.get(f"{arch}.{key}") for key in keys)
    for size in (latent, explicit):
        if type(size) is int:
            return size
    return width // heads if type(width) is int and type(heads) is int and heads else 0
