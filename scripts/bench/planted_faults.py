"""Faults of random place for `bench_judge`: each is planted in the weights or in the metadata of a GGUF file.

Weights are changed before they are quantized, as a wrong converter would: the changed rows of the F32 file are
quantized and put into a copy of the sound file, so that all other bytes stay the same.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from bench import planted_metadata
from turbopilot.formats.ggml_types import BLOCKS
from turbopilot.formats.gguf.file import GgufHeader, TensorInfo, read_gguf
from turbopilot.llama.rounding import Rounding
from turbopilot.verify.row_figures import StoredRows

Array: TypeAlias = npt.NDArray[np.float32]
Plant: TypeAlias = "Callable[[PlantedFile, np.random.Generator], list[str]]"
"""Plants a fault and returns words of which a report should have at least one, or none if the fault does not apply."""

_ROPE_BASE: Final = "{a}.rope.freq_base"
_EPSILON: Final = "{a}.attention.layer_norm_rms_epsilon|{a}.attention.layer_norm_epsilon"
_KINDS_OF_VALUE: Final = {
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    12: "<d",
}  # GGUF value types


@dataclass(frozen=True, slots=True)
class PlantedFile:
    """A copy of a sound file, the F32 file that it was made from, and the importance matrix of its type."""

    path: Path
    header: GgufHeader
    exact: GgufHeader
    importance: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(
        cls, sound: Path, exact: Path, path: Path, importance: Mapping[str, Array] | None = None
    ) -> PlantedFile:
        """Copy a sound file to `path`."""
        shutil.copyfile(sound, path)
        return cls(path, read_gguf(path), read_gguf(exact), importance or {})

    def tensor(self, name: str) -> TensorInfo | None:
        """Return a tensor of the copy."""
        return next((t for t in self.header.tensors if t.name == name), None)

    def matrices(self) -> list[str]:
        """Return the names of all tensors of at least two dimensions, except routers, and except position tables."""
        kept = ("position_embd", "ffn_gate_inp")
        found = [t.name for t in self.header.tensors if len(t.shape) > 1]
        return [n for n in found if not any(part in n for part in kept)]

    def vectors(self, *ends: str) -> list[str]:
        """Return the names of the vectors that end with one of `ends`."""
        return [t.name for t in self.header.tensors if len(t.shape) == 1 and t.name.endswith(ends)]

    def read(self, name: str) -> Array:
        """Return the exact rows, (R, C), of a tensor."""
        info = next(t for t in self.exact.tensors if t.name == name)
        flat = np.fromfile(info.path, np.float32, info.n_weights, offset=info.offset)
        return flat.reshape(-1, info.shape[0])

    def write(self, name: str, values: Array) -> None:
        """Replace the rows that differ from the exact ones."""
        info, exact = self.tensor(name), self.read(name)
        assert info
        changed = np.flatnonzero((values != exact).any(axis=1))
        if not len(changed):
            return
        view = np.memmap(
            info.path, np.uint8, "r+", info.offset, (len(values), info.n_bytes // len(values))
        )
        rows = np.ascontiguousarray(values[changed], np.float32)
        if info.type_name == "F32":
            view[changed] = rows.view(np.uint8).reshape(len(rows), -1)
        else:
            known = self.importance.get(name)
            weights = None if known is None else known.reshape(-1, info.shape[0])
            view[changed] = StoredRows(info, Rounding(), weights).quantized(changed, rows)
        view.flush()

    def number(self, key: str) -> int:
        """Return an integer of the metadata, 0 if there is none."""
        value = self.header.metadata.get(f"{self.header.architecture}.{key}", 0)
        return int(value) if isinstance(value, int) else 0

    def patch(self, key: str, change: Callable[[Any], Any]) -> bool:
        """Change a number of the metadata in place; return whether the file has it."""
        data = bytearray(self.path.read_bytes())
        name = struct.pack("<Q", len(key)) + key.encode()
        at = data.find(name)
        if at < 0:
            return False
        at += len(name)
        form = _KINDS_OF_VALUE[struct.unpack_from("<I", data, at)[0]]
        struct.pack_into(form, data, at + 4, change(struct.unpack_from(form, data, at + 4)[0]))
        self.path.write_bytes(data)
        return True


def _times(factor: float) -> Callable[[Any], Any]:
    """Return a function that multiplies a number or an F32 row."""

    def change(value: Any) -> Any:
        return (
            (value * factor).astype(np.float32) if isinstance(value, np.ndarray) else value * factor
        )

    return change


def _row(scale: Callable[[Array], Array]) -> Plant:
    """Return a fault that changes one row of one matrix."""

    def plant(f: PlantedFile, rng: np.random.Generator) -> list[str]:
        name = str(rng.choice(f.matrices()))
        values = f.read(name)
        used = np.flatnonzero(np.abs(values).max(axis=1) > 1e-3)
        row = int(rng.choice(used))
        values[row] = scale(values[row])
        f.write(name, values)
        return [name]

    return plant


def _weight(f: PlantedFile, rng: np.random.Generator) -> list[str]:
    name = str(rng.choice(f.matrices()))
    values = f.read(name)
    row, column = int(rng.integers(len(values))), int(rng.integers(values.shape[1]))
    values[row, column] *= 10
    f.write(name, values)
    return [name]


def _swapped(axis: int) -> Plant:
    """Return a fault that exchanges two rows or two columns of a matrix."""

    def plant(f: PlantedFile, rng: np.random.Generator) -> list[str]:
        name = str(rng.choice(f.matrices()))
        values = f.read(name)
        a, b = (int(i) for i in rng.choice(values.shape[axis], 2, replace=False))
        turned = values if axis == 0 else values.T
        turned[[a, b]] = turned[[b, a]].copy()
        f.write(name, values)
        return [name]

    return plant


def noise(share: float) -> Plant:
    """Return a fault that adds noise to one block of the type, relative to the block's root mean square."""

    def plant(f: PlantedFile, rng: np.random.Generator) -> list[str]:
        name = str(rng.choice(f.matrices()))
        values, info = f.read(name), f.tensor(name)
        assert info
        size = max(32, BLOCKS[info.type_name][0])
        row = int(rng.integers(len(values)))
        start = size * int(rng.integers(max(1, values.shape[1] // size)))
        block = values[row, start : start + size]
        block += rng.normal(scale=share * np.sqrt(np.square(block).mean()), size=block.shape)
        f.write(name, values)
        return [name]

    return plant


def _entry(change: Callable[[float], float], *ends: str) -> Plant:
    """Return a fault that changes one entry of a vector."""

    def plant(f: PlantedFile, rng: np.random.Generator) -> list[str]:
        if not (names := f.vectors(*ends)):
            return []
        name = str(rng.choice(names))
        values = f.read(name)
        i = int(rng.integers(values.shape[1]))
        values[0, i] = change(float(values[0, i]))
        f.write(name, values)
        return [name]

    return plant


def _exchanged(f: PlantedFile, name: str, n: int, rng: np.random.Generator) -> list[str]:
    """Exchange two of the n equal parts of a matrix's rows."""
    values = f.read(name)
    parts = values.reshape(n, -1, values.shape[1])
    a, b = (int(i) for i in rng.choice(n, 2, replace=False))
    parts[[a, b]] = parts[[b, a]].copy()
    f.write(name, values)
    return [name]


def _heads(f: PlantedFile, rng: np.random.Generator) -> list[str]:
    names = [n for n in f.matrices() if n.endswith(("attn_q.weight", "attn_qkv.weight"))]
    heads = f.number("attention.head_count")
    return _exchanged(f, str(rng.choice(names)), heads, rng)


def _expert(f: PlantedFile, rng: np.random.Generator) -> list[str]:
    names = [n for n in f.matrices() if n.endswith("_exps.weight")]
    return _exchanged(f, str(rng.choice(names)), f.number("expert_count"), rng) if names else []


def _layers(f: PlantedFile, rng: np.random.Generator) -> list[str]:
    a, b = (int(i) for i in rng.choice(f.number("block_count"), 2, replace=False))
    changed = []
    for t in f.header.tensors:
        other = t.name.replace(f"blk.{a}.", f"blk.{b}.")
        mine, info = f.tensor(t.name), f.tensor(other)
        if other == t.name or not info or not mine or info.shape != mine.shape:
            continue
        left, right = f.read(t.name), f.read(other)
        f.write(t.name, right)
        f.write(other, left)
        changed.append(t.name)
    return [*changed, f"layer {a}", f"layer {b}"]


FAULTS: Final[dict[str, Plant]] = {
    "row scaled by 1 %": _row(_times(1.01)),
    "row scaled by 20 %": _row(_times(1.2)),
    "row negated": _row(lambda row: -row),
    "weight times 10": _weight,
    "two rows swapped": _swapped(0),
    "two columns swapped": _swapped(1),
    "bias entry zeroed": _entry(lambda _: 0.0, ".bias"),
    "norm entry times 1.5": _entry(lambda x: 1.5 * x, "norm.weight"),
    "1 % noise on a block": noise(0.01),
    "10 % noise on a block": noise(0.10),
    "two heads swapped": _heads,
    "two layers swapped": _layers,
    "two experts swapped": _expert,
    "RoPE base off by 1 %": planted_metadata.number(_ROPE_BASE, _times(1.01)),
    "epsilon times 10": planted_metadata.number(_EPSILON, _times(10)),
    "one merge lost": planted_metadata.merge,
    "truncated vocabulary": planted_metadata.vocabulary,
    "FIM ids swapped": planted_metadata.infilling,
    "wrong pre-tokenizer": planted_metadata.splitting,
    "BOS added": planted_metadata.beginning,
}
"""Name → fault."""


def sizes() -> Iterator[tuple[str, float, Plant]]:
    """Yield faults of decreasing size: kind, size, and fault."""
    for size in (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005):
        change = _times(1 + size)
        yield "row scaled", size, _row(change)
        yield "noise on a block", size, noise(size)
        yield "norm entry scaled", size, _entry(change, "norm.weight")
        yield "RoPE base", size, planted_metadata.number(_ROPE_BASE, change)
        yield "epsilon", size, planted_metadata.number(_EPSILON, change)
