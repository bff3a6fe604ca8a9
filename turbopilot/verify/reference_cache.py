"""What a reference has computed, on disk, by the contents of its checkpoint. Knows nothing of torch.

One folder a model, one file a window, so that an interrupted run goes on where it was. Deleting any of it is safe.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from turbopilot.base.atomic import replacing
from turbopilot.verify.source import Logits, Window

FORMAT = 1  # of what is kept; a new one forgets the old
MAX_BYTES = 4 << 30  # of all models together: the least lately used goes first


class ReferenceCache:
    """Of one checkpoint.

    Args:
        folder: of all references.
        about: what the numbers depend on: digests of the files, versions, device.
    """

    def __init__(self, folder: Path, about: Mapping[str, object]) -> None:
        key = json.dumps({"format": FORMAT, **about}, sort_keys=True)
        self._folder = folder / _digest(key)
        self._folder.mkdir(parents=True, exist_ok=True)
        os.utime(self._folder)
        _make_room(folder, self._folder)

    def has(self, label: str, window: Window) -> bool:
        """Whether the window's states are kept."""
        return self._path(label, window).is_file()

    def get(self, label: str, window: Window) -> Logits:
        """(P, D): what `keep` was given."""
        states: Logits = np.load(self._path(label, window), mmap_mode="r", allow_pickle=False)
        return states

    def keep(self, label: str, window: Window, states: Logits) -> None:
        """Keep a window's states, (P, D), under the name of what was changed in the model."""
        with (
            replacing(self._path(label, window), shared=True) as part,
            part.open("wb") as file,
        ):
            np.save(file, np.ascontiguousarray(states, np.float32))

    def answer(self, question: str) -> Mapping[str, object] | None:
        """What `keep_answer` was given."""
        try:
            found = json.loads(self._note(question).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def keep_answer(self, question: str, answer: Mapping[str, object]) -> None:
        """Keep plain values."""
        with replacing(self._note(question), shared=True) as part:
            part.write_text(json.dumps(answer), "utf-8")

    def _path(self, label: str, window: Window) -> Path:
        return self._folder / f"{_digest(f'{label} {window.ids} {window.measured}')}.npy"

    def _note(self, question: str) -> Path:
        return self._folder / f"{_digest(question)}.json"


class NoCache:
    """Keeps everything, but in memory alone."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, Window], Logits] = {}
        self._answers: dict[str, Mapping[str, object]] = {}

    def has(self, label: str, window: Window) -> bool:
        """See `ReferenceCache`."""
        return (label, window) in self._states

    def get(self, label: str, window: Window) -> Logits:
        """See `ReferenceCache`."""
        return self._states[label, window]

    def keep(self, label: str, window: Window, states: Logits) -> None:
        """See `ReferenceCache`."""
        self._states[label, window] = states

    def answer(self, question: str) -> Mapping[str, object] | None:
        """See `ReferenceCache`."""
        return self._answers.get(question)

    def keep_answer(self, question: str, answer: Mapping[str, object]) -> None:
        """See `ReferenceCache`."""
        self._answers[question] = answer


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _make_room(folder: Path, current: Path) -> None:
    """Forget the models that were not asked for lately, where all together take too much."""
    sizes = {
        model: sum(f.stat().st_size for f in model.iterdir() if f.is_file())
        for model in sorted(
            (m for m in folder.iterdir() if m.is_dir()), key=lambda m: m.stat().st_mtime
        )
    }
    total = sum(sizes.values())
    for model, size in sizes.items():
        if total > MAX_BYTES and model != current:
            shutil.rmtree(model, ignore_errors=True)
            total -= size
