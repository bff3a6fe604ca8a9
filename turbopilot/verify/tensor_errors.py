"""How far each tensor of a GGUF is from what it should be. The only user of gguf's dequantizers in verify.

What it should be is handed over as data (`Expected`): verify itself does not know how a checkpoint is converted.
A wrong tensor is compared with what conversions get wrong: rows in another order, another tensor's rows, a
transposed matrix, zeros, infinities, the values of a coarser type.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.errors import CorruptModel
from turbopilot.gguf_file import GgufHeader, TensorInfo
from turbopilot.progress import Progress, silent
from turbopilot.verify.criteria import WEIGHT_NOISE

Array: TypeAlias = npt.NDArray[np.float32]
Order: TypeAlias = npt.NDArray[np.intp]

# A type's error of normally distributed weights is in the table; outliers and importance matrices change it.
_ROOM: Final = 3.0
# F16 keeps 11 bits; an exact copy keeps all.
_EXACT: Final = {"F32": 1e-10, "F16": 2e-7, "BF16": 1e-5}
_SAME: Final = 0.45  # relative error below which two tensors are one; unrelated ones are at about 2
_OF_FEW_VALUES: Final = ("Q4_0", "Q4_1", "IQ4_NL", "Q3_K", "Q2_K")
_PRINT_ROWS, _PRINT_COLUMNS = 4, 256
_SAMPLED_ROWS, _SAMPLED_COLUMNS = 256, 256


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
    header: GgufHeader, expected: Expected, progress: Progress = silent
) -> list[TensorError]:
    """Every tensor's error, the largest beside its allowance first.

    Args:
        header: the GGUF's.
        expected: what it should hold.
        progress: told of tensors.
    """
    infos = {t.name: t for t in header.tensors}
    wanted = {t.name: t for t in expected.tensors}
    prints = {}
    found = []
    for i, (name, should) in enumerate(wanted.items()):
        progress(i, len(wanted), f"tensor {name}")
        values = should.read()
        prints[name] = _print(values)
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
        _explained(e, infos[e.name], wanted.get(e.name), header, prints)
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
    relative, largest = _relative(got, values)
    return replace(found, relative=relative, max_abs=largest)


def _relative(got: Array, values: Array) -> tuple[float, float]:
    """Σ(got − values)² / Σ values², and the largest difference; in blocks of rows."""
    error = power = largest = 0.0
    rows = max(1, (1 << 22) // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), rows):
        a, b = got[start : start + rows].ravel(), values[start : start + rows].ravel()
        with np.errstate(over="ignore", invalid="ignore"):
            delta = a - b
            error += float(np.dot(delta, delta))
            largest = max(largest, float(np.abs(delta).max(initial=0.0)))
        power += float(np.dot(b, b))
    if not np.isfinite(error):
        return np.inf, np.inf
    return (error / power if power else (np.inf if error else 0.0)), largest


def _unmeasured(
    type_name: str, name: str, shape: tuple[int, ...], source: str, allowed: float = 0.0
) -> TensorError:
    return TensorError(name, type_name, shape, source, np.inf, np.inf, allowed)


def _print(values: Array) -> Array:
    """A corner of it, by which it is known again."""
    flat: Array = values.reshape(len(values), -1)[:_OF_FEW_VALUES: Final = ("Q4_0", "Q4_1", "IQ4_NL", "Q3_K", "Q2_K")
_PRINT_ROWS, :_PRINT_COLUMNS]
    return np.array(flat)


def _explained(
    error: TensorError,
    info: TensorInfo,
    should: ExpectedTensor | None,
    header: GgufHeader,
    prints: Mapping[str, Array],
) -> TensorError:
    if should is None or error.cause:
        return error
    got, values = dequantized(info), should.read()
    for cause, detail in _hypotheses(error, got, values, should.order, header, prints):
        return replace(error, cause=cause, detail=detail)
    if error.relative > _SAME:
        return replace(error, cause="other_weights", detail="holds other weights")
    times = (
        f"its error is {error.relative / error.allowed:.1f} times what {info.type_name} may have"
    )
    return replace(error, cause="noise", detail=times)


def _hypotheses(
    error: TensorError,
    got: Array,
    values: Array,
    order: Order | None,
    header: GgufHeader,
    prints: Mapping[str, Array],
) -> Iterator[tuple[str, str]]:
    """What explains the error, the surest first."""
    if not np.isfinite(got).all():
        yield (
            "overflow",
            f"holds {int((~np.isfinite(got)).sum()):,} values that are infinite or NaN",
        )
        return
    if not got.any():
        yield "dropped", "is all zeros"
    if got.ndim == 2:
        if got.shape[0] == got.shape[1] and _relative(got.T, values)[0] < _SAME:
            yield "transposed", "is transposed"
        size = _head_size(header)
        if size and ".attn_" in error.name and len(got) % size == 0:
            yield from _inside_heads(got, values, order, size)
    mine = _print(got)
    others = {n: _relative(mine, m)[0] for n, m in prints.items() if m.shape == mine.shape}
    nearest = min(others, key=lambda n: others[n])
    if nearest != error.name and others[nearest] < _SAME:
        yield "swapped", f"holds the rows of {nearest}"
    yield from _moved_rows(got, values)
    if coarse := _coarser(error, got):
        yield "requantized", coarse


def _head_size(header: GgufHeader) -> int:
    arch, metadata = header.architecture, header.metadata
    explicit = metadata.get(f"{arch}.attention.key_length")
    width, heads = (
        metadata.get(f"{arch}.{k}") for k in ("embedding_length", "attention.head_count")
    )
    if type(explicit) is int:
        return explicit
    return width // heads if type(width) is int and type(heads) is int and heads else 0


def _inside_heads(
    got: Array, values: Array, order: Order | None, size: int
) -> Iterator[tuple[str, str]]:
    """Rows that are in another order inside their heads."""
    orders = [_matched(got[i : i + size], values[i : i + size]) for i in range(0, len(got), size)]
    if any(o is None for o in orders):
        return
    plain = np.arange(size)
    odd = [(h, o) for h, o in enumerate(orders) if o is not None and not np.array_equal(o, plain)]
    if not odd:
        return
    permutations = _permutations(order, size)
    if permutations and len(odd) == len(orders):
        skipped, twice = permutations
        if all(np.array_equal(o, skipped) for _, o in odd):
            yield (
                "rotary_skipped",
                "has its rows in the checkpoint's order: the rotary permutation was skipped",
            )
        elif all(np.array_equal(o, twice) for _, o in odd):
            yield "rotary_twice", "has had the rotary permutation applied twice"
    head, o = odd[0]
    for k in (1, -1, 2, -2):
        if np.array_equal(o, np.roll(plain, k)):
            yield "head_rows", f"has the rows of head {head} rolled by {k}" + _others(len(odd) - 1)
    yield "head_rows", f"has the rows of head {head} in another order" + _others(len(odd) - 1)


def _others(n: int) -> str:
    return f" (and of {n} more)" if n else ""


def _permutations(order: Order | None, size: int) -> tuple[Order, Order] | None:
    """What `_matched` finds where the conversion's order within a head was skipped, and where it was applied twice."""
    if order is None or len(order) < size:
        return None
    local = np.argsort(np.argsort(order[:size]))
    if np.array_equal(local, np.arange(size)):
        return None
    return np.argsort(local), local


def _matched(got: Array, values: Array) -> Order | None:
    """For each row the row of `values` that it is; None where one is none, or two are one."""
    norms = (np.linalg.norm(x, axis=1, keepdims=True) for x in (got, values))
    a, b = (x / np.maximum(n, 1e-30) for x, n in zip((got, values), norms, strict=True))
    likeness = a @ b.T
    best: Order = likeness.argmax(axis=1)
    alike = likeness[np.arange(len(best)), best] > 1 - _SAME / 2
    return best if alike.all() and len(set(best.tolist())) == len(best) else None


def _moved_rows(got: Array, values: Array) -> Iterator[tuple[str, str]]:
    """Rows that are in another place of the whole tensor."""
    if got.ndim != 2 or len(got) < 3:
        return
    rows = np.linspace(0, len(got) - 1, min(_SAMPLED_ROWS, len(got))).astype(np.intp)
    columns = slice(0, max(8, _SAMPLED_COLUMNS))
    a, b = got[rows, columns], values[:, columns]
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (a, b))
    likeness = a @ b.T
    best = likeness.argmax(axis=1)
    if (likeness.max(axis=1) > 1 - _SAME / 2).mean() < 0.9:
        return
    steps, counts = np.unique((best - rows) % len(got), return_counts=True)
    step = int(steps[counts.argmax()])
    if counts.max() >= 0.9 * len(rows) and step:
        by = step if step <= len(got) // 2 else step - len(got)
        yield "shifted_rows", f"has its rows shifted by {-by}"
    elif (best != rows).any():
        yield (
            "moved_rows",
            f"has rows in other places: {int((best != rows).sum())} of {len(rows)} looked at",
        )


def _coarser(error: TensorError, got: Array) -> str:
    """Of which quantized type the values of a finer one are."""
    if error.type_name not in ("F32", "F16", "BF16", "Q8_0") or got.ndim != 2:
        return ""
    types, few = tuple(WEIGHT_NOISE), ""
    if got.shape[1] % 32 == 0:
        blocks = np.sort(got[:_SAMPLED_ROWS].reshape(-1, 32), axis=1)
        distinct = int(((np.diff(blocks, axis=1) != 0).sum(axis=1) + 1).max())
        if distinct <= 16:
            types, few = _OF_FEW_VALUES, f", and at most {distinct} different values in any 32"

    def unlike(name: str) -> float:
        return abs(math.log(WEIGHT_NOISE[name] / max(error.relative, 1e-30)))

    near = min(types, key=unlike)
    if not few and unlike(near) > _SAME:
        return ""
    return f"has {near}'s error ({error.relative:.1e}){few}: it was made of such a file"
