"""SHA-256 of files, remembered while they stay as they are. A leaf: imports only leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from turbopilot.base.errors import InvalidInput
from turbopilot.base.progress import Progress, silent
from turbopilot.base.stat_cache import remembered

_CHUNK = 1 << 20


def file_digests(
    files: Iterable[Path], folder: Path | None = None, progress: Progress = silent
) -> Mapping[str, str]:
    """Name → SHA-256, in hexadecimal.

    Args:
        files: each is read, unless it is remembered and was not written since.
        folder: where to remember; None for nowhere.
        progress: told of bytes.

    Raises:
        InvalidInput: a file cannot be read.
    """
    files = list(files)
    found: dict[str, str] = {}
    try:
        sizes = {path: path.stat().st_size for path in files}
        done, total = 0, sum(sizes.values())
        for path in files:
            progress(done, total, f"digest of {path.name}")
            found[path.name] = _kept(path, folder) if folder else _digest(path)
            done += sizes[path]
    except OSError as e:
        raise InvalidInput(f"{e.filename}: cannot be read: {e.strerror}") from e
    return found


def is_digest(text: object) -> bool:
    """Whether it looks like a SHA-256 in hex."""
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")


def _kept(path: Path, folder: Path) -> str:
    def fits(known: Mapping[str, Any]) -> bool:
        return is_digest(known.get("sha256"))

    def find() -> Mapping[str, str]:
        return {"sha256": _digest(path)}

    return remembered(folder / "digests.json", str(path.resolve()), [path], find, fits)["sha256"]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
