"""Reader for PyTorch weight files (.bin) that does not need torch.

The file is a zip: a pickle describes each tensor and its offset in a storage, and each storage is an uncompressed
entry. The pickle (`converters.pickled`) is checked against the zip's directory. Rows are read from the file later.

Source: https://docs.pytorch.org/docs/stable/notes/serialization.html (the layout of the zip).
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from converters.pickled import BadPickle, Global, Pickled, read
from converters.source_tensor import SourceTensor, data_bytes
from turbopilot.base.errors import CorruptCheckpoint, InvalidInput
from turbopilot.base.quoting import quoted

MAX_DIRECTORY = 16 << 20  # 100,000 tensors need 8 MB; zipfile needs ten times that in memory
MAX_PICKLE = 16 << 20  # 100,000 tensors need 8 MB; a hostile pickle expands to 50 times its size
MAX_DIMENSIONS = 8

_ZIP = b"PK\x03\x04"
_DESCRIPTOR = b"PK\x07\x08"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first bytes of files from before torch 1.6

_DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "float8_e5m2": "F8_E5M2", "float8_e4m3fn": "F8_E4M3",
    "int16": "I16", "uint16": "U16", "float16": "F16", "bfloat16": "BF16", "int32": "I32", "uint32": "U32",
    "float32": "F32", "int64": "I64", "uint64": "U64", "float64": "F64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Record:
    """A zip entry: the offset of its data in the file, its size in bytes, and its CRC-32."""

    start: int
    n_bytes: int
    checksum: int


class _SaveAnew(Exception):
    """The file is intact, but must be saved again in a supported form."""


def read_pickle(path: Path) -> dict[str, SourceTensor]:
    """Return a file's tensors by name.

    Raises:
        InvalidInput: the file must be saved again (written before torch 1.6, compressed, big-endian, or with a
            tensor that is not contiguous).
        CorruptCheckpoint: the file is damaged, or its pickle contains anything but named tensors.
    """
    try:
        return _sources(path, *_read(path))
    except BadPickle as e:
        raise CorruptCheckpoint(
            f"{path}: damaged or hostile PyTorch file: {e}",
            hint="download the checkpoint again, as safetensors if possible",
        ) from e
    except _SaveAnew as e:
        folder = str(path.parent)
        raise InvalidInput(
            f"{path}: {e}",
            hint='save it as safetensors: python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained({folder!r}, dtype='auto').save_pretrained({folder!r})\"",
        ) from e


def _read(path: Path) -> tuple[dict[Any, Any], dict[str, _Record]]:
    """Return the pickle's content, and the zip's directory."""
    try:
        with _Frugal(path) as file:
            start = file.read(len(_LEGACY))
            if start == _LEGACY:
                raise _SaveAnew("was written by a torch version older than 1.6; it is not a zip")
            if not start.startswith(_ZIP):
                raise BadPickle("it is not a zip, so torch.save did not write it")
            records = _records(file)
            return _state(file, records), records
    except OSError as e:
        raise CorruptCheckpoint(f"{path}: cannot be read: {e}", hint="check the file") from e
    except (BadPickle, _SaveAnew):
        raise
    except Exception as e:
        # zipfile raises struct.error, NotImplementedError … for a damaged directory
        raise BadPickle(f"its zip cannot be read: {type(e).__name__}") from e


class _Frugal(FileIO):
    """A file that rejects a single read of more than `MAX_DIRECTORY` bytes, as for a hostile zip directory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise BadPickle(f"its directory claims {size:,} bytes")
        return super().read(size) or b""


def _records(file: FileIO) -> dict[str, _Record]:
    """Return the zip's entries by name, without the top-level folder."""
    size = file.seek(0, os.SEEK_END)
    found: dict[str, _Record] = {}
    with zipfile.ZipFile(file) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    ends = [*(entry.header_offset for entry in entries[1:]), size]
    for entry, end in zip(entries, ends, strict=True):
        name = entry.filename.partition("/")[2]
        if name in found:
            raise BadPickle(f"entry {quoted(name)} of the zip occurs twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise _SaveAnew(f"is a zip whose entry {quoted(name)} is compressed")
        if entry.file_size != entry.compress_size:
            raise BadPickle(f"entry {quoted(name)} of the zip has two different sizes")
        start = _start(file, entry)
        if not start or start + entry.file_size > end:
            raise BadPickle(f"entry {quoted(name)} of the zip is not at the directory's offset")
        found[name] = _Record(start, entry.file_size, entry.CRC)
    return found


def _start(file: FileIO, entry: zipfile.ZipInfo) -> int:
    """Return the offset of an entry's data; 0 if the bytes before or after it are not as expected."""
    file.seek(entry.header_offset)
    head = file.read(30)
    n_name, n_extra = (int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
    codec = "utf-8" if entry.flag_bits & 1 << 11 else "cp437"
    if not head.startswith(_ZIP) or file.read(n_name) != entry.orig_filename.encode(codec):
        return 0
    start = entry.header_offset + 30 + n_name + n_extra
    file.seek(start + entry.file_size)
    # the length of the padding before the data is right only if a descriptor or header follows
    described = bool(entry.flag_bits & 1 << 3) and entry.file_size > 0
    behind = file.read(4)
    return start if behind[:2] == _ZIP[:2] and (behind == _DESCRIPTOR) == described else 0


def _state(file: FileIO, records: Mapping[str, _Record]) -> dict[Any, Any]:
    """Return the state dict in the pickle."""
    if "data.pkl" not in records:
        raise BadPickle("it has no data.pkl, so torch.save did not write it")
    if "byteorder" in records and _small(file, records, "byteorder") != b"little":
        raise _SaveAnew("stores numbers in big-endian order")
    state = read(_small(file, records, "data.pkl"))
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]  # training frameworks also save the optimizer's state
    if not isinstance(state, dict):
        raise BadPickle(f"it contains a {type(state).__name__}, not a dict of tensors")
    return state


def _small(file: FileIO, records: Mapping[str, _Record], name: str) -> bytes:
    record = records[name]
    if record.n_bytes > MAX_PICKLE:
        raise BadPickle(f"its {name} is {record.n_bytes:,} bytes long")
    file.seek(record.start)
    data = file.read(record.n_bytes)
    # torch writes 0 with torch.serialization.set_crc32_options(False)
    if record.checksum not in (0, zlib.crc32(data)):
        raise BadPickle(f"its {name} has a wrong checksum")
    return data


def _sources(
    path: Path, state: Mapping[Any, Any], records: Mapping[str, _Record]
) -> dict[str, SourceTensor]:
    sources: dict[str, SourceTensor] = {}
    types: dict[str, str] = {}  # storage key → dtype
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise BadPickle(f"its pickle names a tensor {quoted(name)}, which is not a string")
        if isinstance(tensor, Global):
            raise _SaveAnew(f"stores {quoted(name)} as the result of {tensor.name}")
        if not isinstance(tensor, Pickled):
            raise BadPickle(f"{quoted(name)} is not a plain tensor")
        sources[name] = source = _source(path, name, tensor, records)
        if types.setdefault(tensor.storage.key, source.dtype) != source.dtype:
            raise _SaveAnew(f"stores {quoted(name)} as a view of a storage of another type")
    return sources


def _source(path: Path, name: str, tensor: Pickled, records: Mapping[str, _Record]) -> SourceTensor:
    """Return a tensor's location in the file, checked against the zip's directory."""
    shown = quoted(name)
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise _SaveAnew(f"stores {shown} as {tensor.dtype}, which is not a supported number format")
    numbers = (tensor.offset, tensor.storage.count, *tensor.shape)
    if len(tensor.shape) > MAX_DIMENSIONS or not all(0 <= n < 1 << 63 for n in numbers):
        raise BadPickle(f"{shown} has an impossible offset or shape")
    if tensor.flags or not _is_contiguous(tensor):
        raise _SaveAnew(
            f"stores {shown} as a view that is not contiguous, such as a transposed one"
        )
    record = records.get(f"data/{tensor.storage.key}")
    if record is None:
        raise BadPickle(f"the data of {shown} is not in the file")
    n_bytes = data_bytes(dtype, (1,))
    source = SourceTensor(name, dtype, tensor.shape, path, record.start + tensor.offset * n_bytes)
    held = data_bytes(_DTYPES.get(tensor.storage.dtype, dtype), (tensor.storage.count,))
    if held != record.n_bytes:
        raise BadPickle(
            f"the storage of {shown} should have {held:,} bytes, but has {record.n_bytes:,}"
        )
    needed = tensor.offset * n_bytes + source.n_bytes
    if needed > held:
        raise BadPickle(
            f"tensor {shown} of shape {tensor.shape} needs {needed:,} bytes, but its storage has {held:,}"
        )
    return source


def _is_contiguous(tensor: Pickled) -> bool:
    """Return whether the elements are in C order; the stride of a dimension of size 1 is ignored."""
    step = 1
    for n, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if n != 1 and stride != step:
            return 0 in tensor.shape
        step *= n
    return True
