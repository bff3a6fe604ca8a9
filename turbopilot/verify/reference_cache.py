"""On-disk cache of a reference's results, keyed by the contents of its checkpoint.

There is one folder per model and one file per window, so that an interrupted run can resume. All files can be deleted
at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from turbopilot.base.atomic import replacing
from turbopilot.verify.source import Logits, Window

FORMAT = 1  # version of the file format; files of other versions are ignored
MAX_BYTES = 4 << 30  # limit for all models together; the least recently used is deleted first


class ReferenceCache:
    """Hidden states of windows, and `Notes`, of one checkpoint.

    Args:
        folder: cache folder of all references; None for a temporary folder.
        about: everything that the results depend on: file digests, versions, device.
    """

    def __init__(self, folder: Path | None, about: Mapping[str, object]) -> None:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="turbopilot-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        key = json.dumps({"format": FORMAT, **about}, sort_keys=True)
        self._folder = folder / _digest(key)
        self._folder.mkdir(parents=True, exist_ok=True)
        os.utime(self._folder)
        _make_room(folder, self._folder)

    def has(self, label: str, window: Window) -> bool:
        """Return whether the window's states are stored."""
        return self._path(label, window).is_file()

    def states(self, label: str, window: Window) -> Logits:
        """Return a window's stored hidden states, (P, D)."""
        states: Logits = np.load(self._path(label, window), mmap_mode="r", allow_pickle=False)
        return states

    def keep(self, label: str, window: Window, states: Logits) -> None:
        """Store a window's hidden states, (P, D); `label` names the change made to the model."""
        with (
            replacing(self._path(label, window)) as part,
            part.open("wb") as file,
        ):
            np.save(file, np.ascontiguousarray(states, np.float32))

    def get(self, question: str, /) -> Mapping[str, Any] | None:
        """Return the stored answer, if any."""
        try:
            found = json.loads(self._note(question).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def __setitem__(self, question: str, answer: Mapping[str, Any], /) -> None:
        """Store an answer, which must be JSON-serializable."""
        with replacing(self._note(question)) as part:
            part.write_text(json.dumps(answer), "utf-8")

    def _path(self, label: str, window: Window) -> Path:
        return self._folder / f"{_digest(f'{label} {window.ids} {window.measured}')}.npy"

    def _note(self, question: str) -> Path:
        return self._folder / f"{_digest(question)}.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _make_room(folder: Path, current: Path) -> None:
    """Delete the least recently used models, except the current one, until the rest fits in `MAX_BYTES`."""
    models = sorted((m for m in folder.iterdir() if m.is_dir()), key=lambda m: m.stat().st_mtime)
    sizes = {m: sum(f.stat().st_size for f in m.iterdir() if f.is_file()) for m in models}
    total = sum(sizes.values())
    for model, size in sizes.items():
        if total > MAX_BYTES and model != current:
            shutil.rmtree(model, ignore_errors=True)
            total -= size
