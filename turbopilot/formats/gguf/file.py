"""Reader of GGUF headers that is safe on untrusted files.

llama.cpp aborts the process on some malformed files, and gguf's reader takes seconds for a large vocabulary. This
reader checks every count and offset against the file's size before use, and never reads tensors.

Source: ggml/docs/gguf.md (format version 3; version 2 has the same layout).
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from turbopilot.base.errors import CorruptModel, InvalidInput
from turbopilot.base.quoting import quoted
from turbopilot.formats.ggml_types import GGML_TYPES
from turbopilot.formats.gguf.cursor import MOST_KEY_BYTES, MOST_NAME_BYTES, Cursor, Value
from turbopilot.formats.gguf.split import MAX_PARTS, siblings
from turbopilot.formats.tensor_summary import bytes_by_type


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Entry of a tensor in a GGUF header."""

    name: str  # in llama.cpp's naming
    shape: tuple[int, ...]  # innermost first, as stored
    type_name: str  # a name in `GGML_TYPES`
    offset: int  # start of the data, in bytes from the start of the file
    n_bytes: int  # size of the data
    path: Path = Path()  # the file, or the part of a split model, that contains the data

    @property
    def n_weights(self) -> int:
        """Number of weights (elements)."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Header of a GGUF file, or of all parts of a split model together."""

    path: Path  # the file, or the first part
    version: int  # version of the GGUF format
    metadata: dict[str, Value]  # metadata of the first part
    tensors: tuple[TensorInfo, ...]  # tensors of all parts
    file_size: int  # size of all parts in bytes
    n_files: int = 1  # number of parts

    @property
    def architecture(self) -> str:
        """The value of `general.architecture`; "" if it is missing."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, or all parts of a split model in order."""
        return tuple(sorted({self.path, *(t.path for t in self.tensors)}))

    @property
    def n_weights(self) -> int:
        """Number of weights of all tensors."""
        return sum(t.n_weights for t in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Size of all tensor data in bytes."""
        return sum(t.n_bytes for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Average number of bits per weight over all tensors, including norms and biases."""
        return 8 * self.tensor_bytes / max(1, self.n_weights)

    def bytes_by_type(self) -> dict[str, int]:
        """Return type name → bytes, largest first."""
        return bytes_by_type((t.type_name, t.n_bytes) for t in self.tensors)

    def main_type(self) -> str:
        """Return the type that holds the most bytes."""
        return next(iter(self.bytes_by_type()), "F32")


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """Byte spans, (first, last + 1), in one GGUF file."""

    keys: dict[
        str, tuple[int, int]
    ]  # spans of the metadata keys with their values, in the file's order
    infos: tuple[int, int]  # span of the tensors' entries
    data: int  # start of the tensor data
    alignment: int  # alignment of `data` and of each tensor in it, in bytes


def read_gguf(path: Path) -> GgufHeader:
    """Parse and check the headers of a GGUF file and of its other parts. Takes milliseconds for any file size.

    Raises:
        InvalidInput: the file cannot be read, is not the first part of a split model, or another part is missing.
        CorruptModel: the file is not a GGUF, its header contradicts its size, or the parts contradict each other.
    """
    header, _ = read_part(path)
    n_files = header.metadata.get("split.count", 1)
    # gguf-split writes 0 to merged files.
    return header if n_files in (0, 1) else _with_parts(header, n_files)


def _with_parts(first: GgufHeader, count: Value) -> GgufHeader:
    path = first.path
    if type(count) is not int or not 1 < count <= MAX_PARTS:
        raise CorruptModel(
            f"{path}: split.count is {quoted(count)}, not a number of parts",
            hint="the file is damaged or incomplete: convert or download it again",
        )
    named = siblings(path)
    if named is None or len(named[1]) != count:
        raise CorruptModel(
            f"{path}: is one of {count} parts of a model, but is not named like one",
            hint=f"rename it as NAME-00001-of-{count:0>5}.gguf",
        )
    number, paths = named
    if number:
        raise InvalidInput(
            f"{path}: is part {number + 1} of {count}", hint=f"give the first one: {paths[0]}"
        )
    if absent := [p.name for p in paths if not p.is_file()]:
        raise InvalidInput(
            f"{path}: other parts of the model are missing: {', '.join(absent)}",
            hint="put all parts in the same folder",
        )
    parts = [first, *(read_part(p)[0] for p in paths[1:])]
    tensors = tuple(t for part in parts for t in part.tensors)
    for i, part in enumerate(parts):
        if part.metadata.get("split.no") != i or part.metadata.get("split.count") != count:
            raise CorruptModel(
                f"{part.path}: split.no and split.count do not match part {i + 1} of {count}"
            )
    wanted = first.metadata.get("split.tensors.count")
    if len(tensors) != wanted or len({t.name for t in tensors}) != len(tensors):
        raise CorruptModel(
            f"{path}: the parts contain {len(tensors):,} tensors, not {quoted(wanted)} different ones",
            hint="check that all parts belong to the same model",
        )
    size = sum(part.file_size for part in parts)
    return replace(first, tensors=tensors, file_size=size, n_files=len(parts))


def read_part(path: Path) -> tuple[GgufHeader, GgufLayout]:
    """Parse one file: a whole model or a part of it. Raise the same errors as `read_gguf`."""
    try:
        if path.is_dir():
            raise InvalidInput(
                f"{path}: is a folder, not a GGUF file",
                hint=f"convert it first: turbopilot convert {path}",
            )
        with path.open("rb") as f:
            magic = f.read(4)
            if magic != b"GGUF":
                raise CorruptModel(
                    f"{path}: not a GGUF file (it begins with {quoted(magic)})",
                    hint=_other_format(magic, path),
                )
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(Cursor(data, path))
    except OSError as e:
        missing = isinstance(e, (FileNotFoundError, NotADirectoryError))
        what = "no such file" if missing else f"cannot be read: {e.strerror}"
        made = "check the path, or create a GGUF with turbopilot convert"
        raise InvalidInput(
            f"{path}: {what}", hint=made if missing else "check the file's permissions"
        ) from None


def _other_format(magic: bytes, path: Path) -> str:
    if magic == b"lmgg":
        return f"it is an old ggml file; import it first: turbopilot convert {path}"
    if magic in (b"tjgg", b"fmgg"):
        return (
            "it is an old ggml file of LLaMA; use the model's checkpoint: turbopilot convert NAME"
        )
    if magic[:2] == b"PK" or path.suffix in (".safetensors", ".bin", ".pt"):
        return (
            f"if it belongs to a checkpoint, convert its folder: turbopilot convert {path.parent}"
        )
    return "give a GGUF file, for example one written by turbopilot convert or quantize"


def _parse(c: Cursor) -> tuple[GgufHeader, GgufLayout]:
    c.take(4, "magic")
    version = c.number("I", "version")
    if version not in (2, 3):
        raise c.fail(f"version {version} is not supported (only 2 and 3)")
    n_tensors = c.count("tensors", 24)
    n_keys = c.count("metadata keys", 12)
    metadata: dict[str, Value] = {}
    keys: dict[str, tuple[int, int]] = {}
    for _ in range(n_keys):
        began = c.at
        key = c.string("a metadata key", MOST_KEY_BYTES)
        if key in metadata:
            raise c.fail(f"metadata {quoted(key)} occurs twice")
        metadata[key] = c.value(c.number("I", key), key)
        keys[key] = began, c.at
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise c.fail(f"general.alignment is {quoted(alignment)}, not a power of two")

    began = c.at
    infos = [_tensor_info(c, alignment) for _ in range(n_tensors)]
    start = -(-c.at // alignment) * alignment
    tensors = tuple(replace(t, offset=start + t.offset) for t in infos)
    for t in tensors:
        if t.offset + t.n_bytes > len(c.data):
            raise c.fail(
                f"tensor {quoted(t.name)} ({t.n_bytes:,} bytes at {t.offset:,}) "
                f"is outside the file's {len(c.data):,} bytes"
            )
    if len({t.name for t in tensors}) != len(tensors):
        raise c.fail("two tensors have the same name")
    header = GgufHeader(c.path, version, metadata, tensors, len(c.data))
    return header, GgufLayout(keys, (began, c.at), start, alignment)


def _tensor_info(c: Cursor, alignment: int) -> TensorInfo:
    """Parse a tensor's entry; the offset is relative to the start of the data."""
    name = c.string("a tensor's name", MOST_NAME_BYTES)
    n_dims = c.number("I", name)
    if not 1 <= n_dims <= 4:
        raise c.fail(f"tensor {quoted(name)} has {n_dims} dimensions")
    shape = tuple(c.number("Q", name) for _ in range(n_dims))
    kind, offset = c.number("I", name), c.number("Q", name)
    if kind not in GGML_TYPES:
        raise c.fail(f"tensor {quoted(name)} has the unknown type {kind}")
    type_name, block, block_bytes = GGML_TYPES[kind]
    if 0 in shape or shape[0] % block:
        raise c.fail(
            f"tensor {quoted(name)} with shape {shape} does not divide into {type_name} blocks of {block}"
        )
    if offset % alignment:
        raise c.fail(f"tensor {quoted(name)} is not aligned to {alignment} bytes")
    return TensorInfo(name, shape, type_name, offset, prod(shape) // block * block_bytes, c.path)
