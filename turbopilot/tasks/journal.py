"""Completions that a model has generated, on disk: an interrupted run resumes, and a reference runs once.

There is one file for each model and suite, with one JSON line for each task. All files can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

FORMAT: Final = 1  # version of the lines; files of other versions are ignored


@dataclass(frozen=True, slots=True)
class TaskCompletion:
    """Completion of a task by a model.

    Attributes:
        text: text for the task's gap.
        first_token: id of its first token; None if it is empty.
        n_tokens: number of generated tokens.
    """

    text: str
    first_token: int | None
    n_tokens: int


class Journal:
    """Completions of one model and suite. Use it as a context manager.

    Args:
        folder: folder of all journals; None keeps nothing.
        about: everything that the completions depend on.
    """

    def __init__(self, folder: Path | None, about: Mapping[str, object]) -> None:
        self.known: dict[str, TaskCompletion] = {}
        self._file: IO[str] | None = None
        if folder is None:
            return
        key = json.dumps({"format": FORMAT, **about}, sort_keys=True)
        path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        whole = (
            0  # bytes up to the last complete line: a run may have been killed while it wrote one
        )
        if path.is_file():
            for line in path.read_bytes().splitlines(keepends=True):
                if not self._take(line):
                    break
                whole += len(line)
        self._file = path.open("a", encoding="utf-8")
        self._file.truncate(whole)

    def _take(self, line: bytes) -> bool:
        """Read a line; return False if it is not complete."""
        if not line.endswith(b"\n"):
            return False
        try:
            row = json.loads(line)
            task = row.pop("task")
            self.known[task] = TaskCompletion(**row)
        except (ValueError, TypeError, KeyError, AttributeError):
            return False
        return True

    def add(self, task: str, completion: TaskCompletion) -> None:
        """Record the completion of a task."""
        self.known[task] = completion
        if self._file:
            self._file.write(json.dumps({"task": task, **asdict(completion)}) + "\n")
            self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
