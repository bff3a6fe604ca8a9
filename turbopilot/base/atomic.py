"""Atomic files: output is written to `NAME.part` and renamed when it is complete.

A killed run leaves at most the `.part`, which the next run overwrites. An existing file is replaced only after the new
one is synced to disk, so that a power cut leaves one of them. A new name is not synced, as that takes longer than
converting: a power cut in the next seconds may leave a short file, which every reader of GGUF refuses.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from turbopilot.base.errors import InvalidInput, NotEnoughDisk

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your disk quota is used up",
    errno.EFBIG: "the file is larger than the file system or a limit of yours (ulimit -f) allows",
}
_SPACE_HINT = "free some space, or write elsewhere with -o"


def check_output(path: Path, *, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Raise InvalidInput, before any work, if an output cannot be written.

    It exists (without `force`), is a folder, is one of the inputs, is in a missing folder, or is not a valid name.
    """
    try:
        if path.is_dir():
            raise InvalidInput(f"{path}: is a folder, not a file", hint="give a file name")
        path.with_name(path.name + ".part").is_file()
    except (OSError, ValueError) as e:
        raise InvalidInput(
            f"{path}: not a valid file name: {e}", hint="name another output with -o"
        ) from e
    if any(path.exists() and i.exists() and path.samefile(i) for i in inputs):
        raise InvalidInput(
            f"{path}: output and input are the same file", hint="name another output with -o"
        )
    if path.exists() and not force:
        raise InvalidInput(
            f"{path}: exists already",
            hint="name another output with -o, or overwrite it with --force",
        )
    if not path.parent.is_dir():
        raise InvalidInput(
            f"{path.parent}: no such folder", hint=f"make it first: mkdir -p {path.parent}"
        )


def check_disk(folder: Path, needed: int, hint: str = _SPACE_HINT) -> None:
    """Raise NotEnoughDisk if fewer than `needed` bytes of disk are free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NotEnoughDisk(
            f"{folder}: {needed / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free",
            hint=hint,
        )


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield `path` + ".part" to write to; on success rename it, on failure remove it.

    Args:
        path: the final name.
        shared: several processes may write the file at once (a cache): each writes its own part, the last one stays.
    """
    part = path.with_name(path.name + (f".{os.getpid()}" if shared else "") + ".part")
    try:
        yield part
        if path.exists():
            with part.open("rb+") as f:
                os.fsync(f.fileno())
        part.replace(path)
    except BaseException as e:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(e, OSError) and e.errno in FULL:
            raise NotEnoughDisk(f"{path}: {FULL[e.errno]}", hint=_SPACE_HINT) from e
        if isinstance(e, OSError) and e.filename in (str(part), part):
            raise InvalidInput(
                f"{path}: cannot be written: {e.strerror}", hint="write elsewhere with -o"
            ) from e
        raise
