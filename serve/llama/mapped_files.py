"""Model files that change while llama.cpp has them mapped into memory.

The kernel ends a process with SIGBUS if it reads a mapped page beyond the end of the file. So a model file must not be
truncated while it is in use, as `cp` and `curl -o` do when they replace a file.

A file that other users can write is not mapped but read into memory. This takes 0.6 s more per GB, and the system
cannot drop the pages if memory is short. Files of this user and of root are mapped, and checked before each batch.

What remains: if this user or root truncates the file while a batch is computed, or if a network file system fails then,
the process ends with SIGBUS. On Windows, mapped files cannot be truncated.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path

from turbopilot.base.errors import ModelChanged
from turbopilot.base.machine import total_bytes
from turbopilot.formats.gguf.file import GgufHeader


def should_map(header: GgufHeader) -> bool:
    """Return whether only this user and root can write the files of a model, or they do not fit into memory."""
    return all(map(_is_ours, header.files)) or header.file_size > total_bytes()


def _is_ours(path: Path) -> bool:
    if os.name != "posix":
        return True
    s = path.stat()
    # On many systems, each user has a group, which can write the user's files.
    by_group = s.st_mode & stat.S_IWGRP and s.st_gid != os.getegid()
    return s.st_uid in (0, os.geteuid()) and not by_group and not s.st_mode & stat.S_IWOTH


class MappedFiles:
    """Open files of a model, to detect changes. Replacing a file by `rename` is not a change."""

    def __init__(self, header: GgufHeader) -> None:
        with ExitStack() as opened:
            files = [(path, opened.enter_context(path.open("rb"))) for path in header.files]
            self._files = [(path, f.fileno(), _state(f.fileno())) for path, f in files]
            self.close = opened.pop_all().close

    def check(self) -> None:
        """Raise ModelChanged if a file was changed since this object was created."""
        for path, number, state in self._files:
            if _state(number) != state:
                raise ModelChanged(
                    f"{path}: the model file was changed while it is in use",
                    hint="restart the server; to replace a model file, rename a new one over it",
                )


def _state(number: int) -> tuple[int, int]:
    s = os.fstat(number)
    return s.st_size, s.st_mtime_ns
