"""The container: numbers, vocabulary, tensors, to the end of the file. Little endian, nothing aligned.

`i32 magic`, a few i32 of hyperparameters, the vocabulary as (i32 length, bytes), and tensors as
(i32 dimensions, i32 length of the name, i32 type, i32 sizes innermost first, name, data).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from converters.encode import fits
from converters.source_tensor import SourceTensor
from turbopilot.base.errors import CorruptCheckpoint, InvalidInput, UnsupportedModel
from turbopilot.formats.ggml_types import GGML_TYPES

MAGIC = b"lmgg"  # 0x67676d6c
QUANT_VERSION = 2  # since May 2023; today's GGUF has the same
_FACTOR = 1000  # ftype = quantization version · 1000 + type
TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0"}
_MAX_TOKEN = 1 << 16  # bytes; the longest in the wild have some hundred
_MAX_NAME = 256
_MAX_DIMS = 4

# What else a person may have, by its first bytes: what it is, and the way out.
_OTHERS: dict[bytes, tuple[str, str]] = {
    b"GGUF": ("a GGUF file already", "use it as it is: turbopilot serve FILE"),
    b"fmgg": (
        "a ggml file of version `ggmf`, which only LLaMA's first tools wrote",
        "take the model's checkpoint: turbopilot convert NAME",
    ),
    b"tjgg": (
        "a ggml file of version `ggjt`, which only LLaMA models have",
        "take the model's checkpoint: turbopilot convert NAME",
    ),
    b"algg": ("a LoRA adapter (`ggla`), not a model", "give the model that it was made for"),
    b"PK\x03\x04": ("a PyTorch file", "give its folder, the one with config.json"),
}
_UNKNOWN = (
    "not a model file of any kind that we know",
    "give a checkpoint's folder, or an old ggml .bin",
)


@dataclass(frozen=True, slots=True)
class Header:
    """How one family's files begin.

    Args:
        fields: names of the hyperparameters, in order; the last is `ftype`.
        repeats_n_vocab: the vocabulary begins with its size once more.
        mark: a tensor that only this family has.
    """

    fields: tuple[str, ...]
    repeats_n_vocab: bool
    mark: str


@dataclass(frozen=True, slots=True)
class OldFile:
    """What a file says; the weights stay in it.

    Args:
        params: the hyperparameters by name.
        vocabulary: the bytes of each token, by row.
        tensors: by the file's own names.
    """

    path: Path
    params: Mapping[str, int]
    vocabulary: tuple[bytes, ...]
    tensors: Mapping[str, SourceTensor]


def is_old(path: Path) -> bool:
    """Whether it begins as such a file."""
    try:
        with path.open("rb") as f:
            return f.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def check_kind(path: Path) -> None:
    """End on anything that is no such file.

    Raises:
        InvalidInput: it is something else; says what, and what to do with it.
    """
    try:
        with path.open("rb") as f:
            magic = f.read(len(MAGIC))
    except OSError as e:
        raise InvalidInput(f"{path}: cannot be read: {e.strerror}", hint="check the path") from e
    if magic == MAGIC:
        return
    what, hint = _OTHERS.get(magic, _UNKNOWN)
    raise InvalidInput(f"{path}: is {what}", hint=hint)


def is_plausible(path: Path, header: Header) -> bool:
    """Whether the numbers at the beginning can be those of this family."""
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


def read_old(path: Path, header: Header) -> OldFile:
    """Read all but the weights.

    Raises:
        CorruptCheckpoint: it is truncated, or its lengths cannot be.
        UnsupportedModel: its blocks are older than those of today, or of a type that has gone.
    """
    size = path.stat().st_size
    with path.open("rb") as f:
        f.seek(len(MAGIC))
        n = len(header.fields)
        params = dict(zip(header.fields, _ints(path, f, n, "its header"), strict=True))
        if header.repeats_n_vocab:
            _ints(path, f, 1, "its header")
        vocabulary = _vocabulary(path, f, params["n_vocab"], size)
        tensors = _tensors(path, f, size)
    _check_blocks(path, params["ftype"], tensors)
    return OldFile(path, params, vocabulary, tensors)


def _ints(path: Path, f: BufferedReader, n: int, where: str) -> tuple[int, ...]:
    raw = f.read(4 * n)
    if len(raw) < 4 * n:
        raise _truncated(path, where)
    return struct.unpack(f"<{n}i", raw)


def _vocabulary(path: Path, f: BufferedReader, n_vocab: int, size: int) -> tuple[bytes, ...]:
    if n_vocab > size // 4:
        raise CorruptCheckpoint(
            f"{path}: claims {n_vocab:,} tokens, more than fit into the file",
            hint="download it again",
        )
    found = []
    for row in range(n_vocab):
        (length,) = _ints(path, f, 1, f"token {row:,}")
        if not 0 <= length <= _MAX_TOKEN:
            raise CorruptCheckpoint(
                f"{path}: token {row:,} claims {length:,} bytes", hint="download it again"
            )
        text = f.read(length)
        if len(text) < length:
            raise _truncated(path, f"token {row:,}")
        found.append(text)
    return tuple(found)


def _tensors(path: Path, f: BufferedReader, size: int) -> dict[str, SourceTensor]:
    found: dict[str, SourceTensor] = {}
    while f.tell() < size:
        where = f"tensor {len(found):,}"
        n_dims, name_length, kind = _ints(path, f, 3, where)
        if not (1 <= n_dims <= _MAX_DIMS and 0 < name_length <= _MAX_NAME):
            raise CorruptCheckpoint(
                f"{path}: {where} claims {n_dims} dimensions and a name of {name_length:,} bytes",
                hint="download it again; it is damaged, or not of the family that --model-type says",
            )
        shape = _ints(path, f, n_dims, where)[::-1]
        raw = f.read(name_length)
        if len(raw) < name_length:
            raise _truncated(path, where)
        name = raw.decode("utf-8", "replace")
        name = "".join(c if c.isprintable() else "?" for c in name)
        dtype = _dtype(path, name, kind)
        if min(shape) < 1 or not fits(dtype, shape[-1]):
            raise CorruptCheckpoint(
                f"{path}: tensor {name!r} of type {dtype} cannot have the shape {shape}",
                hint="download it again",
            )
        if name in found:
            raise CorruptCheckpoint(
                f"{path}: holds the tensor {name!r} twice", hint="download it again"
            )
        tensor = SourceTensor(name, dtype, shape, path, f.tell())
        if tensor.offset + tensor.n_bytes > size:
            raise _truncated(path, f"tensor {name!r} {shape}")
        found[name] = tensor
        f.seek(tensor.n_bytes, os.SEEK_CUR)
    return found


def _dtype(path: Path, name: str, kind: int) -> str:
    if kind in TYPES:
        return TYPES[kind]
    known = GGML_TYPES.get(kind, (f"number {kind}",))[0] if kind not in (4, 5) else "Q4_2 or Q4_3"
    raise UnsupportedModel(
        f"{path}: tensor {name!r} is of type {known}, which such files are not imported with",
        hint=f"types that are: {', '.join(TYPES.values())}; or take the model's checkpoint: turbopilot convert NAME",
    )


def _check_blocks(path: Path, ftype: int, tensors: Mapping[str, SourceTensor]) -> None:
    version = ftype // _FACTOR
    quantized = sorted({t.dtype for t in tensors.values()} - {"F32", "F16"})
    if not quantized or version == QUANT_VERSION:
        return
    raise UnsupportedModel(
        f"{path}: its {quantized[0]} blocks are of version {version}; since May 2023 they are laid out otherwise "
        f"(version {QUANT_VERSION})",
        hint="no program reads them any more; take the model itself: turbopilot convert NAME -o model.gguf, "
        f"then: turbopilot quantize model.gguf {quantized[0]}",
    )


def _truncated(path: Path, where: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{path}: ends inside {where}", hint="it is truncated; download it again"
    )
