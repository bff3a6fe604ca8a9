"""Answers about files that take long to find, remembered while the files stay as they are. A leaf: imports only leaves.

"As they are" is what the file system says: sizes, times and inodes. What the disk itself spoils goes unnoticed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from turbopilot.base.atomic import replacing
from turbopilot.base.errors import TurboPilotError

_MOST = 200  # answers that are remembered
_SETTLED = 2.0  # seconds: the coarsest clock of a file system (FAT's)


def remembered(
    memory: Path,
    key: str,
    files: Iterable[Path],
    find: Callable[[], Mapping[str, str]],
    fits: Callable[[Mapping[str, Any]], bool],
) -> Mapping[str, str]:
    """What `find` says of some files: from `memory` where none of them has been written since it said so.

    Args:
        memory: a small file; its folder is made where missing. One that cannot be written is done without.
        key: which answer it is.
        files: what it is about.
        find: finds it.
        fits: whether what is remembered can be such an answer: a damaged memory is not believed.
    """
    files = list(files)
    state = _state(files)
    known = _known(memory).get(key)
    if known and known.get("files") == state and fits(known):
        return {name: value for name, value in known.items() if name != "files"}
    found = find()
    # What was written just now may be written again within the same tick of the file system's clock.
    newest = max(time_ns for one in state for time_ns in one[2:4])
    if state == _state(files) and time.time_ns() - newest > _SETTLED * 1e9:
        others = {k: v for k, v in _known(memory).items() if k != key}
        kept = dict(list(others.items())[1 - _MOST :])
        kept[key] = {"files": state, **found}
        with suppress(OSError, TurboPilotError):  # done without
            memory.parent.mkdir(parents=True, exist_ok=True)
            with replacing(memory, shared=True) as part:
                part.write_text(json.dumps(kept, indent=1), "utf-8")
    return found


def _state(files: Iterable[Path]) -> list[list[int]]:
    """Size, inode and times of each file; the second time cannot be set back by hand."""
    stats = [path.stat() for path in files]
    return [[s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns] for s in stats]


def _known(memory: Path) -> dict[str, dict[str, Any]]:
    """What is remembered; nothing of it where the file is damaged."""
    try:
        known = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    plain = isinstance(known, dict) and all(isinstance(v, dict) for v in known.values())
    return known if plain else {}
