"""SHA-256 of files, cached until the file system reports a change."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from turbopilot.base.atomic import replacing
from turbopilot.base.errors import InvalidInput, TurboPilotError
from turbopilot.base.progress import Progress, silent

_CHUNK = 1 << 20
_MOST = 200  # cached entries
_SETTLED = 2.0  # seconds: the coarsest clock of a file system (FAT's)


def file_digests(
    files: Iterable[Path], folder: Path | None = None, progress: Progress = silent
) -> Mapping[str, str]:
    """Return file name → SHA-256 in hexadecimal. If `folder` is given, digests are cached in it."""
    files = list(files)
    found: dict[str, str] = {}
    try:
        sizes = {path: path.stat().st_size for path in files}
        done, total = 0, sum(sizes.values())
        for path in files:
            progress(done, total, f"digest of {path.name}")
            found[path.name] = _cached_digest(path, folder) if folder else _digest(path)
            done += sizes[path]
    except OSError as e:
        raise InvalidInput(f"{e.filename}: cannot be read: {e.strerror}") from e
    return found


def stated_digest(path: Path) -> str:
    """Return the SHA-256 that a Hub cache states as the name of this file; "" if the file is not in such a cache.

    The cache links `models--OWNER--NAME/snapshots/COMMIT/FILE` to `../../blobs/SHA-256`, which is checked when it is
    downloaded. Small files are named by git's digest, which has another length.
    """
    if not path.is_symlink():
        return ""
    target = path.resolve()
    is_blob = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    return target.name if is_blob and is_digest(target.name) else ""


def is_digest(text: object) -> bool:
    """Return whether `text` is a SHA-256 in hexadecimal."""
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")


def remembered(
    folder: Path,
    files: Iterable[Path],
    names: tuple[str, ...],
    find: Callable[[], Mapping[str, str]],
) -> Mapping[str, str]:
    """Return digests of files, from the cache unless the file system reports a change (size, time, inode).

    Args:
        folder: folder of the cache, created if missing; if it cannot be written, nothing is cached.
        files: files that the digests depend on; the first one is the key of the cache entry.
        names: names of the digests that `find` returns; cache entries without them are ignored as damaged.
        find: computes the digests.
    """
    files = list(files)
    cache, key = folder / "digests.json", str(files[0].resolve())
    state = _state(files)
    known = _read(cache).get(key, {})
    if known.get("files") == state and all(is_digest(known.get(name)) for name in names):
        return {name: known[name] for name in names}
    found = find()
    # A file that was just written may be written again within the same tick of the file system's clock.
    newest = max(time_ns for one in state for time_ns in one[2:4])
    if state == _state(files) and time.time_ns() - newest > _SETTLED * 1e9:
        others = _read(cache)
        same = others.pop(key, {})
        kept = dict(list(others.items())[1 - _MOST :])
        kept[key] = {**(same if same.get("files") == state else {}), "files": state, **found}
        with suppress(OSError, TurboPilotError):
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(cache) as part:
                part.write_text(json.dumps(kept, indent=1), "utf-8")
    return found


class SourceWatch:
    """Sizes, inodes and times of input files when work on them began.

    Args:
        files: inputs; of a folder, the files in it.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._before: dict[Path, list[list[int]]] = {}
        for path in files:
            for file in path.iterdir() if path.is_dir() else [path]:
                with suppress(OSError):  # the reader of the file reports it
                    self._before[file] = _state([file])

    def check(self, files: Iterable[Path]) -> None:
        """Raise InvalidInput if one of these files was changed or replaced meanwhile."""
        for path in files:
            try:
                same = self._before.get(path) in (None, _state([path]))
            except OSError:
                same = False
            if not same:
                raise InvalidInput(
                    f"{path}: changed while it was read",
                    hint="run it again when no other program writes the file",
                )


def _cached_digest(path: Path, folder: Path) -> str:
    return remembered(folder, [path], ("sha256",), lambda: {"sha256": _digest(path)})["sha256"]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _state(files: Iterable[Path]) -> list[list[int]]:
    """Return size, inode, mtime and ctime of each file; programs cannot set ctime back."""
    stats = [path.stat() for path in files]
    return [[s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns] for s in stats]


def _read(cache: Path) -> dict[str, dict[str, Any]]:
    """Return the cache's entries; {} if the file is missing or damaged."""
    try:
        known = json.loads(cache.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    plain = isinstance(known, dict) and all(isinstance(v, dict) for v in known.values())
    return known if plain else {}
