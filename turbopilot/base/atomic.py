"""Atomic files: output is written to `NAME.part` and renamed when it is complete.

A killed run leaves at most the `.part` file, which the next run overwrites. An existing file is replaced only after the
new one is synced to disk, so that a power failure leaves one of them intact. A file with a new name is not synced,
because that takes longer than the conversion: a power failure within seconds may leave a truncated file, which every
GGUF reader rejects.
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
    errno.EFBIG: "the file is larger than the file system or your limit (ulimit -f) allows",
}
_SPACE_HINT = "free some space, or choose another output with -o"


def check_output(path: Path, *, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Raise InvalidInput if an output file cannot be written. Call this before any long work.

    The path must not exist (unless `force`), be a folder or an input, be in a missing folder, or be an invalid name.
    """
    try:
        if path.is_dir():
            raise InvalidInput(f"{path}: is a folder, not a file", hint="give a file name")
        path.with_name(path.name + ".part").is_file()
    except (OSError, ValueError) as e:
        raise InvalidInput(
            f"{path}: not a valid file name: {e}", hint="choose another output with -o"
        ) from e
    if any(path.exists() and i.exists() and path.samefile(i) for i in inputs):
        raise InvalidInput(
            f"{path}: output and input are the same file", hint="choose another output with -o"
        )
    if path.exists() and not force:
        raise InvalidInput(
            f"{path}: exists already",
            hint="choose another output with -o, or overwrite it with --force",
        )
    if not path.parent.is_dir():
        raise InvalidInput(
            f"{path.parent}: no such folder", hint=f"create it first: mkdir -p {path.parent}"
        )


def check_disk(folder: Path, needed: int, hint: str = _SPACE_HINT) -> None:
    """Raise NotEnoughDisk if fewer than `needed` bytes are free on the disk."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NotEnoughDisk(
            f"{folder}: {needed / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free",
            hint=hint,
        )


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield `path` + ".part" to write to; rename it to `path` on success, remove it on failure.

    Args:
        path: the final name.
        shared: whether several processes may write the file at once, as in a cache. Each then writes its own part, and
            the last one to finish replaces the others.
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
                f"{path}: cannot be written: {e.strerror}", hint="choose another output with -o"
            ) from e
        raise
