"""SHA-256 of files, remembered while they stay as they are. A leaf: imports only leaves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from turbopilot.errors import InvalidInput
from turbopilot.progress import Progress, silent

_CHUNK = 1 << 20


class FileDigests:
    """Digests, and where they are noted.

    Args:
        folder: holds the note; None to remember nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._note = folder / "digests.json" if folder else None
        self._known = self._read()

    def of(self, files: Iterable[Path], progress: Progress = silent) -> Mapping[str, str]:
        """Name → SHA-256, in hexadecimal. A file of the same size and time as before is not read again.

        Raises:
            InvalidInput: a file cannot be read.
        """
        files = list(files)
        try:
            sizes = {path: path.stat().st_size for path in files}
            done, total, found = 0, sum(sizes.values()), {}
            for path in files:
                progress(done, total, f"digest of {path.name}")
                found[path.name] = self._one(path)
                done += sizes[path]
        except OSError as e:
            raise InvalidInput(f"{e.filename}: cannot be read: {e.strerror}") from e
        self._write()
        return found

    def _one(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}"
        if key not in self._known:
            digest = hashlib.sha256()
            with path.open("rb", buffering=0) as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
            self._known[key] = digest.hexdigest()
        return self._known[key]

    def _read(self) -> dict[str, str]:
        try:
            known = json.loads(self._note.read_text("utf-8")) if self._note else {}
        except (OSError, ValueError):
            return {}
        plain = isinstance(known, dict) and all(isinstance(v, str) for v in known.values())
        return known if plain else {}

    def _write(self) -> None:
        if self._note:
            try:
                self._note.parent.mkdir(parents=True, exist_ok=True)
                part = self._note.with_name("digests.json.part")
                part.write_text(json.dumps(self._known), "utf-8")
                part.replace(self._note)
            except OSError:
                pass  # it will be computed again
