"""Editor for the metadata of a GGUF file, which leaves everything else unchanged.

The other keys, the tensors' entries and their data are copied as bytes without decoding, so that unknown content is
not lost. The start of the tensor data may move; tensor offsets are relative to it.

Source: ggml/docs/gguf.md.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeAlias

from turbopilot.base.atomic import check_disk, locked, replacing
from turbopilot.base.errors import InvalidInput, NotEnoughDisk
from turbopilot.base.file_digest import SourceWatch
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.file import read_part

Writable: TypeAlias = "str | bool | int | float | list[str]"

_CHUNK = 1 << 22  # bytes copied at once
_HEAD = 8  # bytes before the counts: magic and version
_UINT64, _INT64, _FLOAT64, _BOOL, _STRING, _ARRAY = 10, 11, 12, 7, 8, 9


def check_editable(path: Path) -> None:
    """Raise InvalidInput for a file in the Hub's cache, whose files must match their checksums."""
    if in_hub_cache(path):
        raise InvalidInput(
            f"{path}: is in the Hugging Face Hub's cache, whose files must not be changed",
            hint=f"copy it first: cp -L {path} .",
        )


def in_hub_cache(path: Path) -> bool:
    """Return whether a file, or the target of a symbolic link, is in the cache of `huggingface_hub`."""
    return any(folder.name.startswith("models--") for folder in path.resolve().parents)


def set_metadata(
    path: Path,
    keys: Mapping[str, Writable] | None = None,
    *,
    remove: str = "",
    progress: Progress = silent,
) -> None:
    """Rewrite a file with changed metadata. If `path` is a symbolic link, its target is replaced.

    Args:
        path: one file; for a split model, one part.
        keys: keys to set, written after the others. An int becomes a uint64, or an int64 if negative; a float becomes
            a float64.
        remove: prefix of keys to remove; "" for none.
        progress: called with bytes.

    Raises:
        InvalidInput: a value cannot be stored in GGUF, a key would move tensors, or the folder is not writable.
        CorruptModel: the file is not a usable GGUF.
        NotEnoughDisk: there is no space for a second copy. The old file is unchanged.
    """
    path = path.resolve()
    with locked(path, lambda: None):  # two writers would both begin with the same old file
        _rewrite(path, keys or {}, remove, progress)


def _rewrite(path: Path, keys: Mapping[str, Writable], remove: str, progress: Progress) -> None:
    watch = SourceWatch([path])
    header, layout = read_part(path)
    new = {key: _pair(key, value) for key, value in keys.items()}
    gone = {k for k in layout.keys if k in new or (remove and k.startswith(remove))}
    if "general.alignment" in gone | set(new):
        raise InvalidInput(
            f"{path}: general.alignment cannot be changed: tensor positions depend on it"
        )
    spans = [span for key, span in layout.keys.items() if key not in gone]
    counts = struct.pack("<QQ", len(header.tensors), len(spans) + len(new))
    added = b"".join(new.values())
    tail = (min(layout.data, header.file_size), header.file_size)

    n_head = _HEAD + len(counts) + sum(b - a for a, b in (*spans, layout.infos)) + len(added)
    padding = bytes(-n_head % layout.alignment)
    total = n_head + len(padding) + tail[1] - tail[0]
    try:
        check_disk(path.parent, total)
        with replacing(path) as part:
            with path.open("rb") as source, part.open("wb") as target:
                pieces = chain(
                    _copied(source, (0, _HEAD)), [counts], _copied(source, *spans), [added],
                    _copied(source, layout.infos), [padding], _copied(source, tail),
                )  # fmt: skip
                done = 0
                for piece in pieces:
                    progress(done, total, path.name)
                    done += target.write(piece)
            shutil.copymode(path, part)
            watch.check([path])
    except NotEnoughDisk as e:
        e.hint = "free some space: the new file is written next to the old one, then replaces it"
        raise
    progress(total, total, path.name)


def _copied(source: BinaryIO, *spans: tuple[int, int]) -> Iterator[bytes]:
    for start, end in spans:
        source.seek(start)
        for at in range(start, end, _CHUNK):
            piece = source.read(n := min(_CHUNK, end - at))
            if len(piece) != n:
                raise InvalidInput(
                    f"{os.fspath(source.name)}: became shorter while it was read",
                    hint="if another program is writing it, wait and run it again",
                )
            yield piece


def _pair(key: str, value: Writable) -> bytes:
    """Encode a key and its value; raise InvalidInput for integers over 64 bits or text that is not valid Unicode."""
    try:
        return _text(key) + _value(value)
    except (struct.error, UnicodeEncodeError) as e:
        raise InvalidInput(f"metadata {key!r}: cannot be written: {e}") from e


def _value(value: Writable) -> bytes:
    if isinstance(value, bool):  # before int, because bool is a subclass of int
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        code, kind = ("<IQ", _UINT64) if value >= 0 else ("<Iq", _INT64)
        return struct.pack(code, kind, value)
    if isinstance(value, float):
        return struct.pack("<Id", _FLOAT64, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", errors="surrogateescape")  # as `Cursor.string` decodes
    return struct.pack("<Q", len(raw)) + raw
