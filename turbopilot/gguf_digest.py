"""Digests of what a GGUF holds, whatever way it is laid out in files. A leaf: imports only leaves.

The tensors' digest is of their names, types, shapes and data in the order of names: aligning them otherwise, or
splitting the model into parts, does not change it. The metadata's is of the keys with their values as stored,
without those that only say how the model is laid out.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from turbopilot.atomic import replacing
from turbopilot.errors import InvalidInput, TurboPilotError
from turbopilot.gguf_file import GgufHeader, TensorInfo, read_gguf, read_part
from turbopilot.progress import Progress, silent

CERTIFICATE = "turbopilot.verified."
"""The beginning of the keys of a certificate, which cannot cover itself."""
_LAYOUT = ("split.", "general.alignment")
_CHUNK = 1 << 20
_REMEMBERED = "digests.json"
_MOST = 200  # files that are remembered
_SETTLED = 2.0  # seconds: the coarsest clock of a file system (FAT's)


class Digests(NamedTuple):
    """SHA-256 in hex."""

    tensors: str
    metadata: str


def digests(model: Path | GgufHeader, progress: Progress = silent) -> Digests:
    """Read all of a model: seconds for gigabytes.

    Args:
        model: the file, or the first part, or its header.
        progress: told of bytes of tensors.

    Raises:
        InvalidInput, CorruptModel: as `read_gguf`; also where the file became shorter meanwhile.
    """
    header = read_gguf(model) if isinstance(model, Path) else model
    return Digests(_tensors(header, progress), _metadata(header.path))


def _tensors(header: GgufHeader, progress: Progress) -> str:
    data: dict[str, bytes] = {}
    done, total = 0, header.tensor_bytes
    # Read in the order of the disk; summed up in the order of names.
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
                            hint="does another program write it? run it again when that is done",
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
    """A tensor's name, type and shape, so written that no two tensors' are alike."""
    words = [part.encode("utf-8", "surrogateescape") for part in (t.name, t.type_name)]
    lengths = struct.pack("<3Q", *map(len, words), len(t.shape))
    return lengths + b"".join(words) + struct.pack(f"<{len(t.shape)}Q", *t.shape)


def _metadata(path: Path) -> str:
    """Of the first part alone: llama.cpp reads no other part's, and neither do we."""
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
    """The same, from a small file in `folder` where the model has not been written since they were taken.

    "Written" is what the file system says: sizes, times and inodes. What the disk itself spoils goes unnoticed.

    Args:
        header: of the model.
        folder: where to remember; made where missing. One that cannot be written is done without.
        progress: told of bytes of tensors, where they have to be read.

    Raises:
        InvalidInput, CorruptModel: as `digests`.
    """
    memory = folder / _REMEMBERED
    key, state = str(header.path.resolve()), _state(header)
    known = _known(memory).get(key)
    if known and known["files"] == state:
        return Digests(known["tensors"], known["metadata"])
    found = digests(header, progress)
    # What was written just now may be written again within the same tick of the file system's clock.
    newest = max(time_ns for one in state for time_ns in one[2:4])
    if state == _state(header) and time.time_ns() - newest > _SETTLED * 1e9:
        others = {k: v for k, v in _known(memory).items() if k != key}
        kept = dict(list(others.items())[1 - _MOST :])
        kept[key] = {"files": state, **found._asdict()}
        with suppress(OSError, TurboPilotError):  # done without
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(memory) as part:
                part.write_text(json.dumps(kept, indent=1), "utf-8")
    return found


def _state(header: GgufHeader) -> list[list[int]]:
    """Size, inode and times of each file of a model; the second time cannot be set back by hand."""
    stats = [path.stat() for path in _files(header)]
    return [[s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns] for s in stats]


def _files(header: GgufHeader) -> Iterable[Path]:
    return sorted({header.path, *(t.path for t in header.tensors)})


def _known(memory: Path) -> dict[str, dict[str, Any]]:
    """What is remembered; nothing of it where the file is damaged."""
    try:
        known = json.loads(memory.read_text("utf-8"))
        fits = all(
            isinstance(v["files"], list) and is_digest(v["tensors"]) and is_digest(v["metadata"])
            for v in known.values()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    return known if fits else {}


def is_digest(text: object) -> bool:
    """Whether it looks like a SHA-256 in hex."""
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")
