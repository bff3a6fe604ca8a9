"""Error of each tensor of a GGUF relative to its expected values; `tensor_faults` finds the cause.

The caller passes the expected values as a `TargetModel`, because `verify` does not depend on the converters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from turbopilot.base.errors import CorruptModel
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.file import GgufHeader, TensorInfo, read_gguf
from turbopilot.verify.criteria import WEIGHT_NOISE
from turbopilot.verify.tensor_faults import Array, Order, Suspect, corner, fault, relative_error

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
        TargetTensor(t.name, t.shape[::-1], t.name, None, partial(dequantized, t))
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

    @property
    def wrong(self) -> bool:
        """Whether the error is larger than the type allows."""
        return not self.relative <= self.allowed


def tensor_errors(
    header: GgufHeader,
    target: TargetModel,
    progress: Progress = silent,
    *,
    only_vectors: bool = False,
) -> list[TensorError]:
    """Return the error of every tensor, the largest relative to the allowed error first.

    If `only_vectors`, skip matrices. Norms and biases are small and stored unrounded, so a lost one is found here
    whatever the type of the file, while the logits of a file with few bits hardly show it.
    """
    infos = {t.name: t for t in header.tensors if not only_vectors or len(t.shape) == 1}
    wanted = {t.name: t for t in target.tensors if not only_vectors or len(t.shape) == 1}
    corners = {}
    found = []
    for i, (name, should) in enumerate(wanted.items()):
        progress(i, len(wanted), f"tensor {name}")
        values = should.read()
        corners[name] = corner(values)
        if info := infos.get(name):
            found.append(_compare(info, should, values))
        else:
            error = _unmeasured(name, "", should.shape, should.source)
            found.append(replace(error, cause="missing", detail="is missing from the file"))
    for name in infos.keys() - wanted.keys():
        error = _unmeasured(name, infos[name].type_name, infos[name].shape[::-1], "")
        found.append(replace(error, cause="surplus", detail="is not expected"))
    head_size = _head_size(header)
    explained = [
        e
        if e.cause or not e.wrong
        else _explained(e, infos[e.name], wanted[e.name], head_size, corners)
        for e in found
    ]
    return sorted(explained, key=lambda e: -(e.relative / e.allowed if e.allowed else np.inf))


def dequantized(info: TensorInfo) -> Array:
    """Return a tensor's values as float32, outermost dimension first."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    raw = np.memmap(info.path, np.uint8, "r", info.offset, (info.n_bytes,))
    shape = info.shape[::-1]
    if info.type_name == "F32":
        return raw.view(np.float32).reshape(shape)
    if info.type_name == "F16":
        return raw.view(np.float16).astype(np.float32).reshape(shape)
    try:
        kind = GGMLQuantizationType[info.type_name]
        values: Array = dequantize(raw.reshape(int(np.prod(shape[:-1])), -1), kind)
    except (KeyError, NotImplementedError) as e:
        raise CorruptModel(
            f"{info.path}: tensor {info.name!r} has type {info.type_name}, which verify cannot dequantize",
            hint="verify the file that it was quantized from",
        ) from e
    return values.reshape(shape)


def _compare(info: TensorInfo, should: TargetTensor, values: Array) -> TensorError:
    shape = info.shape[::-1]
    allowed = _EXACT.get(info.type_name, _ROOM * WEIGHT_NOISE.get(info.type_name, 1.0))
    found = replace(_unmeasured(info.name, info.type_name, shape, should.source), allowed=allowed)
    if shape != should.shape:
        return replace(found, cause="shape", detail=f"has shape {shape}, not {should.shape}")
    relative, largest = relative_error(dequantized(info), values)
    return replace(found, relative=relative, max_abs=largest)


def _unmeasured(name: str, type_name: str, shape: tuple[int, ...], source: str) -> TensorError:
    return TensorError(name, type_name, shape, source, np.inf, np.inf, 0.0)


def _explained(
    error: TensorError,
    info: TensorInfo,
    should: TargetTensor,
    head_size: int,
    corners: Mapping[str, Array],
) -> TensorError:
    """Return the error with its cause filled in."""
    suspect = Suspect(
        error.name, info.type_name, dequantized(info), should.read(), error.relative, should.order, head_size
    )  # fmt: skip
    if found := fault(suspect, corners):
        return replace(error, cause=found[0], detail=found[1])
    times = error.relative / error.allowed
    words = f"has {times:.1f} times the error that {info.type_name} may have"
    return replace(error, cause="noise", detail=words)


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
