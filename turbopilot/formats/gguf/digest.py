"""Digests of a GGUF's contents that do not depend on its layout in files.

The digest of the tensors covers their names, types, shapes and data in the order of names: another alignment, or
splitting the model into parts, does not change it. The digest of the metadata covers keys and values as stored, except
those that only describe the layout.
"""

from __future__ import annotations

import hashlib
import struct
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from turbopilot.base.errors import InvalidInput
from turbopilot.base.file_digest import remembered
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.file import GgufHeader, TensorInfo, read_gguf, read_part

CERTIFICATE = "turbopilot.verified."
"""Prefix of a certificate's keys, which the digests leave out."""
_LAYOUT = ("split.", "general.alignment")
_CHUNK = 1 << 20


class Digests(NamedTuple):
    """SHA-256 digests in hexadecimal."""

    tensors: str
    metadata: str


def digests(model: Path | GgufHeader, progress: Progress = silent) -> Digests:
    """Return the digests of a model, given as its file, first part or header. Reads the whole model.

    Raises:
        InvalidInput, CorruptModel: see `read_gguf`; also if the file became shorter while it was read.
    """
    header = read_gguf(model) if isinstance(model, Path) else model
    return Digests(_tensors(header, progress), _metadata(header.path))


def _tensors(header: GgufHeader, progress: Progress) -> str:
    data: dict[str, bytes] = {}
    done, total = 0, header.tensor_bytes
    # Read in the order on disk, combine in the order of names.
    in_order = sorted(header.tensors, key=lambda t: (str(t.path), t.offset))
    for path, held in groupby(in_order, key=lambda t: t.path):
        buffer = memoryview(bytearray(_CHUNK))
        with path.open("rb", buffering=0) as f:
            for t in held:
                digest = hashlib.sha256()
                f.seek(t.offset)
                left = t.n_bytes
                while left:
                    n = f.readinto(buffer[: min(_CHUNK, left)])
                    if not n:
                        raise InvalidInput(
                            f"{path}: became shorter while it was read",
                            hint="if another program is writing it, wait and run it again",
                        )
                    digest.update(buffer[:n])
                    left -= n
                    done += n
                    progress(done, total, t.name)
                data[t.name] = digest.digest()
    whole = hashlib.sha256()
    for t in sorted(header.tensors, key=lambda t: t.name):
        whole.update(_entry(t) + data[t.name])
    return whole.hexdigest()


def _entry(t: TensorInfo) -> bytes:
    """Encode a tensor's name, type and shape unambiguously."""
    words = [part.encode("utf-8", "surrogateescape") for part in (t.name, t.type_name)]
    lengths = struct.pack("<3Q", *map(len, words), len(t.shape))
    return lengths + b"".join(words) + struct.pack(f"<{len(t.shape)}Q", *t.shape)


def _metadata(path: Path) -> str:
    """Return the digest of the first part's metadata; llama.cpp ignores the metadata of other parts."""
    _, layout = read_part(path)
    digest = hashlib.sha256()
    with path.open("rb") as f:
        for key in sorted(layout.keys):
            if not key.startswith((CERTIFICATE, *_LAYOUT)):
                start, end = layout.keys[key]
                f.seek(start)
                digest.update(f.read(end - start))
    return digest.hexdigest()


def remembered_digests(header: GgufHeader, folder: Path, progress: Progress = silent) -> Digests:
    """Return the digests of a model, from a cache in `folder` if the model has not changed since they were stored.

    Raises:
        InvalidInput, CorruptModel: see `digests`.
    """
    files = dict.fromkeys([header.path, *sorted(t.path for t in header.tensors)])
    found = remembered(folder, files, Digests._fields, lambda: digests(header, progress)._asdict())
    return Digests(found["tensors"], found["metadata"])
