"""How far each tensor of a GGUF is from what it should be. The only user of gguf's dequantizers in verify.

What it should be is handed over as data (`Expected`): verify itself does not know how a checkpoint is converted.
What is wrong with a tensor that is off, `tensor_faults` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np

from turbopilot.base.errors import CorruptModel
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.file import GgufHeader, TensorInfo
from turbopilot.verify.criteria import WEIGHT_NOISE
from turbopilot.verify.tensor_faults import Array, Order, Suspect, corner, fault, relative_error

# A type's error of normally distributed weights is in the table; outliers and importance matrices change it.
_ROOM: Final = 3.0
# F16 keeps 11 bits; an exact copy keeps all.
_EXACT: Final = {"F32": 1e-14, "F16": 2e-7, "BF16": 1e-5}


class ExpectedTensor(Protocol):
    """What a tensor should be."""

    @property
    def name(self) -> str:
        """In the GGUF."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Outermost first."""

    @property
    def source(self) -> str:
        """What it is made of, for a person."""

    @property
    def order(self) -> Order | None:
        """For each row, the row of the source that it is; None where they are in the source's order."""

    def read(self) -> Array:
        """Its values."""


class Expected(Protocol):
    """What a whole GGUF should be."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Keys and values."""

    @property
    def tensors(self) -> Sequence[ExpectedTensor]:
        """All tensors."""


@dataclass(frozen=True, slots=True)
class TensorError:
    """One tensor's error.

    Attributes:
        name: in the GGUF.
        type_name: its type.
        shape: outermost first.
        source: what it is made of.
        relative: Σ(it − expected)² / Σ expected²; inf where it is not finite or missing.
        max_abs: the largest difference of a weight.
        allowed: the relative error that its type may have.
        cause: what is wrong with it, "" where nothing is: a key of `diagnosis.CAUSES`.
        detail: the same in words.
    """

    name: str
    type_name: str
    shape: tuple[int, ...]
    source: str
    relative: float
    max_abs: float
    allowed: float
    cause: str = ""
    detail: str = ""

    @property
    def wrong(self) -> bool:
        """Whether the type does not explain its error."""
        return not self.relative <= self.allowed


def tensor_errors(
    header: GgufHeader,
    expected: Expected,
    progress: Progress = silent,
    *,
    only_vectors: bool = False,
) -> list[TensorError]:
    """Every tensor's error, the largest beside its allowance first.

    Args:
        header: the GGUF's.
        expected: what it should hold.
        progress: told of tensors.
        only_vectors: leave the matrices out. Norms and biases are a few numbers, which no type rounds: so that one
            is lost shows here at any type, where the logits of a file of few bits hardly tell.
    """
    infos = {t.name: t for t in header.tensors if not only_vectors or len(t.shape) == 1}
    wanted = {t.name: t for t in expected.tensors if not only_vectors or len(t.shape) == 1}
    corners = {}
    found = []
    for i, (name, should) in enumerate(wanted.items()):
        progress(i, len(wanted), f"tensor {name}")
        values = should.read()
        corners[name] = corner(values)
        if name not in infos:
            error = _unmeasured("", name, should.shape, should.source)
            found.append(replace(error, cause="missing", detail="is missing from the file"))
            continue
        error = _compare(infos[name], should, values)
        found.append(error)
    for name in infos.keys() - wanted.keys():
        info = infos[name]
        error = TensorError(
            name,
            info.type_name,
            info.shape[::-1],
            "",
            np.inf,
            np.inf,
            0.0,
            "surplus",
            "is not expected",
        )
        found.append(error)
    explained = [
        _explained(e, infos[e.name], wanted.get(e.name), header, corners)
        if e.wrong and e.name in infos
        else e
        for e in found
    ]
    return sorted(explained, key=lambda e: -(e.relative / e.allowed if e.allowed else np.inf))


def dequantized(info: TensorInfo) -> Array:
    """A tensor's values as float32, outermost dimension first."""
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
            f"{info.path}: tensor {info.name!r} is of type {info.type_name}, which cannot be read back here",
            hint="compare the file that it was quantized from",
        ) from e
    return values.reshape(shape)


def _compare(info: TensorInfo, should: ExpectedTensor, values: Array) -> TensorError:
    shape = info.shape[::-1]
    allowed = _EXACT.get(info.type_name, _ROOM * WEIGHT_NOISE.get(info.type_name, 1.0))
    found = _unmeasured(info.type_name, info.name, shape, should.source, allowed)
    if shape != should.shape:
        words = f"is of shape {shape}, not {should.shape}"
        return replace(found, cause="shape", detail=words)
    got = dequantized(info)
    relative, largest = relative_error(got, values)
    return replace(found, relative=relative, max_abs=largest)


def _unmeasured(
    type_name: str, name: str, shape: tuple[int, ...], source: str, allowed: float = 0.0
) -> TensorError:
    return TensorError(name, type_name, shape, source, np.inf, np.inf, allowed)


def _explained(
    error: TensorError,
    info: TensorInfo,
    should: ExpectedTensor | None,
    header: GgufHeader,
    corners: Mapping[str, Array],
) -> TensorError:
    if should is None or error.cause:
        return error
    suspect = Suspect(
        error.name, info.type_name, dequantized(info), should.read(), error.relative, should.order,
        _head_size(header),
    )  # fmt: skip
    if found := fault(suspect, corners):
        return replace(error, cause=found[0], detail=found[1])
    times = error.relative / error.allowed
    words = f"its error is {times:.1f} times what {info.type_name} may have"
    return replace(error, cause="noise", detail=words)


def _head_size(header: GgufHeader) -> int:
    arch, metadata = header.architecture, header.metadata
    explicit = metadata.get(f"{arch}.attention.key_length")
    width, heads = (
        metadata.get(f"{arch}.{k}") for k in ("embedding_length", "attention.head_count")
    )
    if type(explicit) is int:
        return explicit
    return width // heads if type(width) is int and type(heads) is int and heads else 0
