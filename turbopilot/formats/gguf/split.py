"""File names of the parts of a split model, in the format of llama.cpp's gguf-split.

Source: llama.cpp `src/llama.cpp`, `llama_split_path` ("%s-%05d-of-%05d.gguf", counted from 1).
"""

from __future__ import annotations

import re
from pathlib import Path

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
MAX_PARTS = 99_999


def part_paths(path: Path, count: int) -> tuple[Path, ...]:
    """Return the paths of `count` parts of the model `path`; if `count` is 1, the path itself.

    >>> [p.name for p in part_paths(Path("m.gguf"), 2)]
    ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf']
    """
    if count == 1:
        return (path,)
    stem = path.name.removesuffix(".gguf")
    return tuple(path.with_name(f"{stem}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1))


def files_of(path: Path) -> tuple[Path, ...]:
    """Return all parts of a model of which `path` is one; of a model in one file, the path itself."""
    named = siblings(path)
    return named[1] if named else (path,)


def siblings(path: Path) -> tuple[int, tuple[Path, ...]] | None:
    """Return a part's number, counted from 0, and the paths of all parts; None if the name is not that of a part."""
    named = _PART.match(path.name)
    if not named:
        return None
    stem, count = named["stem"], int(named["count"])
    return int(named["number"]) - 1, part_paths(path.with_name(f"{stem}.gguf"), count)
