"""Reader of old ggml `.bin` files.

Layout, little-endian and without alignment: `i32 magic`, a few i32 hyperparameters, the vocabulary as (i32 length,
bytes), and tensors as (i32 dimensions, i32 length of the name, i32 type, i32 sizes innermost first, name, data).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path

from turbopilot.base.errors import CorruptCheckpoint, InvalidInput, UnsupportedModel
from turbopilot.base.quoting import quoted
from turbopilot.formats.ggml_types import GGML_TYPES

MAGIC = b"lmgg"  # 0x67676d6c
QUANT_VERSION = 2  # since May 2023; equal to GGUF's
_FACTOR = 1000  # ftype = quantization version · 1000 + type
TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0"}
_MAX_TOKEN = 1 << 16  # bytes; the longest tokens in published files have a few hundred
_MAX_NAME = 256
_MAX_DIMS = 4

# First bytes of other files → kind of file, and hint.
_LLAMA = "which only LLaMA models use"
_TAKE_CHECKPOINT = "use the model's checkpoint: turbopilot convert NAME"
_OTHERS: dict[bytes, tuple[str, str]] = {
    b"GGUF": ("already a GGUF file", "use it directly: turbopilot serve FILE"),
    b"fmgg": (f"a ggml file of version `ggmf`, {_LLAMA}", _TAKE_CHECKPOINT),
    b"tjgg": (f"a ggml file of version `ggjt`, {_LLAMA}", _TAKE_CHECKPOINT),
    b"algg": ("a LoRA adapter (`ggla`), not a model", "give the model that the adapter is for"),
    b"PK\x03\x04": ("a PyTorch file", "give its folder, which contains config.json"),
}
_UNKNOWN = ("not a model file of a known kind", "give a checkpoint folder, or an old ggml .bin")


@dataclass(frozen=True, slots=True)
class OldGgmlHeader:
    """Layout of the header of one model family's files."""

    fields: tuple[str, ...]  # names of the hyperparameters, in order; the last is `ftype`
    repeats_n_vocab: bool  # whether the vocabulary begins with its size again
    mark: str  # name of a tensor that only this family has


@dataclass(frozen=True, slots=True)
class OldGgmlTensor:
    """Tensor in an old ggml file: `shape` is outermost first, `offset` is from the start of the file."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class OldGgmlFile:
    """Contents of an old ggml file except the weights."""

    path: Path
    params: Mapping[str, int]  # hyperparameters by name
    vocabulary: tuple[bytes, ...]  # bytes of each token, by row
    tensors: Mapping[str, OldGgmlTensor]  # by name in the file


def is_old(path: Path) -> bool:
    """Return whether a file begins with the magic number of old ggml files."""
    try:
        return _magic(path) == MAGIC
    except OSError:
        return False


def check_kind(path: Path) -> None:
    """Raise InvalidInput, with the kind of file and a hint, if it is not an old ggml file."""
    try:
        magic = _magic(path)
    except OSError as e:
        raise InvalidInput(f"{path}: cannot be read: {e.strerror}", hint="check the path") from e
    if magic != MAGIC:
        what, hint = _OTHERS.get(magic, _UNKNOWN)
        raise InvalidInput(f"{path}: is {what}", hint=hint)


def _magic(path: Path) -> bytes:
    with path.open("rb") as f:
        return f.read(len(MAGIC))


def is_plausible(path: Path, header: OldGgmlHeader) -> bool:
    """Return whether the numbers at the beginning of the file are plausible for this family."""
    n = len(header.fields)
    with path.open("rb") as f:
        raw = f.read(4 * (n + 2))
    if len(raw) < 4 * (n + 2):
        return False
    values = struct.unpack(f"<{n + 1}i", raw[4:])
    p = dict(zip(header.fields, values, strict=False))
    positive = all(p[k] > 0 for k in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer"))
    return (
        positive
        and p["n_embd"] % p["n_head"] == 0
        and p["n_layer"] <= 1000
        and 0 <= p.get("n_rot", 0) <= p["n_embd"] // p["n_head"]
        and p.get("par_res", 0) in (0, 1)
        and p["ftype"] >= 0
        and p["ftype"] // _FACTOR <= 9
        and (not header.repeats_n_vocab or values[n] == p["n_vocab"])
    )


def read_old(path: Path, header: OldGgmlHeader) -> OldGgmlFile:
    """Read an old ggml file except its weights.

    Raises:
        CorruptCheckpoint: the file is truncated, or a length is invalid.
        UnsupportedModel: quantized blocks have an older layout, or a tensor has a removed type.
    """
    with path.open("rb") as f:
        reader = _OldGgmlReader(path, f)
        f.seek(len(MAGIC))
        values = reader.ints(len(header.fields), "its header")
        params = dict(zip(header.fields, values, strict=True))
        if header.repeats_n_vocab:
            reader.ints(1, "its header")
        vocabulary = reader.vocabulary(params["n_vocab"])
        tensors = reader.tensors()
    version = params["ftype"] // _FACTOR
    quantized = sorted({t.type_name for t in tensors.values()} - {"F32", "F16"})
    if quantized and version != QUANT_VERSION:
        raise UnsupportedModel(
            f"{path}: its {quantized[0]} blocks are of version {version}; only version {QUANT_VERSION} "
            "(since May 2023) is supported",
            hint="start from the checkpoint instead: turbopilot convert NAME -o model.gguf, "
            f"then: turbopilot quantize model.gguf {quantized[0]}",
        )
    return OldGgmlFile(path, params, vocabulary, tensors)


class _OldGgmlReader:
    """Bounds-checked reader, which raises CorruptCheckpoint."""

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self.path, self.file, self.size = path, file, path.stat().st_size

    def corrupt(self, what: str, hint: str = "download it again") -> CorruptCheckpoint:
        return CorruptCheckpoint(f"{self.path}: {what}", hint=hint)

    def truncated(self, where: str) -> CorruptCheckpoint:
        return self.corrupt(f"ends inside {where}", "it is truncated; download it again")

    def take(self, n: int, where: str) -> bytes:
        if len(raw := self.file.read(n)) < n:
            raise self.truncated(where)
        return raw

    def ints(self, n: int, where: str) -> tuple[int, ...]:
        return struct.unpack(f"<{n}i", self.take(4 * n, where))

    def vocabulary(self, n_vocab: int) -> tuple[bytes, ...]:
        if n_vocab > self.size // 4:
            raise self.corrupt(f"claims {n_vocab:,} tokens, too many for the size of the file")
        found = []
        for row in range(n_vocab):
            (length,) = self.ints(1, f"token {row:,}")
            if not 0 <= length <= _MAX_TOKEN:
                raise self.corrupt(f"token {row:,} claims {length:,} bytes")
            found.append(self.take(length, f"token {row:,}"))
        return tuple(found)

    def tensors(self) -> dict[str, OldGgmlTensor]:
        found: dict[str, OldGgmlTensor] = {}
        while self.file.tell() < self.size:
            where = f"tensor {len(found):,}"
            n_dims, length, kind = self.ints(3, where)
            if not (1 <= n_dims <= _MAX_DIMS and 0 < length <= _MAX_NAME):
                raise self.corrupt(
                    f"{where} claims {n_dims} dimensions and a name of {length:,} bytes",
                    "download it again if it is damaged, or check --model-type",
                )
            shape = self.ints(n_dims, where)[::-1]
            name = self.take(length, where).decode("utf-8", "replace")
            name = "".join(c if c.isprintable() else "?" for c in name)
            if kind not in TYPES:
                old = "Q4_2 or Q4_3" if kind in (4, 5) else f"number {kind}"
                raise UnsupportedModel(
                    f"{self.path}: tensor {quoted(name)} has type {GGML_TYPES.get(kind, (old,))[0]}, "
                    "which cannot be imported",
                    hint=f"importable types: {', '.join(TYPES.values())}; or {_TAKE_CHECKPOINT}",
                )
            type_name, block, block_bytes = GGML_TYPES[kind]
            if min(shape) < 1 or shape[-1] % block:
                raise self.corrupt(
                    f"tensor {quoted(name)} of type {type_name} cannot have the shape {shape}"
                )
            if name in found:
                raise self.corrupt(f"contains the tensor {quoted(name)} twice")
            found[name] = OldGgmlTensor(name, type_name, shape, self.file.tell())
            end = found[name].offset + prod(shape) // block * block_bytes
            if end > self.size:
                raise self.truncated(f"tensor {quoted(name)} {shape}")
            self.file.seek(end)
        return found
