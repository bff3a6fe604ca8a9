"""Atomic files: output is written to a separate file next to it, the part, and renamed when it is complete.

A part is named `NAME.<16 hexadecimal digits>.part`, so processes that write the same output at once never share a
file, and the last rename wins. The part is locked while its writer lives. A killed writer leaves its part; the next
writer of the same output finds it unlocked and removes it. File and folder are synced to disk, so a power failure
leaves the old file or the new one.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from turbopilot.base.errors import InvalidInput, NotEnoughDisk

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your disk quota is used up",
    errno.EFBIG: "the file is larger than the file system or your limit (ulimit -f) allows",
}
_SPACE_HINT = "free some space, or choose another output with -o"
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def check_output(
    path: Path, *, force: bool, inputs: tuple[Path, ...] = (), outside: Path | None = None
) -> None:
    """Raise InvalidInput if an output file cannot be written. Call this before any long work.

    The path must not exist (unless `force`), be a folder, a link, a device or an input, be in a missing folder, or be
    an invalid name.

    Args:
        path: the output.
        force: an existing regular file may be replaced.
        inputs: files that must not be replaced, compared by device and inode.
        outside: a folder of inputs in which no output may be.
    """
    try:
        if path.is_dir():
            raise InvalidInput(f"{path}: is a folder, not a file", hint="give a file name")
        part_of(path).is_file()
    except (OSError, ValueError) as e:
        raise InvalidInput(
            f"{path}: not a valid file name: {e}", hint="choose another output with -o"
        ) from e
    if any(path.exists() and i.exists() and path.samefile(i) for i in inputs):
        raise InvalidInput(
            f"{path}: output and input are the same file", hint="choose another output with -o"
        )
    if outside is not None and path.resolve().is_relative_to(outside.resolve()):
        raise InvalidInput(
            f"{path}: is inside the source, {outside}", hint="choose another output with -o"
        )
    if path.is_symlink():
        raise InvalidInput(f"{path}: is a link", hint=f"name the file itself: -o {path.resolve()}")
    if path.exists() and not path.is_file():
        raise InvalidInput(
            f"{path}: is a device, pipe or socket, not a file", hint="choose another output with -o"
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
def replacing(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Yield a new, empty part of `path` to write to; on success sync and rename it, on failure remove it.

    Args:
        path: the final name.
        mode: permissions of the file, less the umask.
    """
    part, lock = Path(), -1

    def create(new: Path) -> None:
        nonlocal part
        part = new
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, mode))

    try:
        remove_leftovers(path)
        lock = locked_part(path, create)
        yield part
        sync(part)
        move_into_place(part, path)
    except BaseException as e:
        if part.name:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        if isinstance(e, OSError) and e.errno in FULL:
            raise NotEnoughDisk(f"{path}: {FULL[e.errno]}", hint=_SPACE_HINT) from e
        if isinstance(e, OSError) and e.filename in (str(part), part):
            raise InvalidInput(
                f"{path}: cannot be written: {e.strerror}", hint="choose another output with -o"
            ) from e
        raise
    finally:
        if lock >= 0:
            os.close(lock)


def locked_part(path: Path, create: Callable[[Path], None]) -> int:
    """Create a part of `path`, and return an open, locked file for it, or -1 on Windows.

    Before the part is locked, another writer may take it for a leftover; then another one is created.
    """
    while True:
        create(part := part_of(path))
        if sys.platform == "win32":
            return -1
        import fcntl

        with suppress(FileNotFoundError):
            file = os.open(part, os.O_RDONLY | _NO_FOLLOW)
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if part.exists():
                return file
            os.close(file)


def remove_leftovers(path: Path) -> None:
    """Remove parts of `path`, files or folders, whose writer was killed."""
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.part")
    with suppress(OSError):
        for part in path.parent.iterdir():
            if pattern.fullmatch(part.name):
                with suppress(OSError):
                    _remove_if_left(part)


def _remove_if_left(part: Path) -> None:
    kind = part.lstat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        return
    file = os.open(part, os.O_RDONLY | _NO_FOLLOW)
    try:
        if not try_lock(file):
            return
        if stat.S_ISDIR(kind):
            shutil.rmtree(part)
        else:
            part.unlink()
    finally:
        os.close(file)


@contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time work on `path`; the lock ends with its holder, even after SIGKILL.

    `on_wait` is called before waiting for another process; if it raises, nothing is waited for. The lock is the file
    `NAME.lock`, which the holder removes. If files cannot be locked (Windows, some network file systems, a folder
    that cannot be written), there is no lock; `replacing` still keeps the output whole.
    """
    name = path.with_name(path.name + ".lock")
    file = -1
    try:
        with suppress(OSError):
            file = _open_locked(name, on_wait)
        yield
    finally:
        if file >= 0:
            with suppress(OSError):
                name.unlink()  # while it is locked: a process that waits for this file opens a new one
            os.close(file)


def _open_locked(name: Path, on_wait: Callable[[], None]) -> int:
    """Return the open lock file, or -1 on Windows."""
    if sys.platform == "win32":
        return -1
    import fcntl

    while True:
        file = os.open(name, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o666)
        try:
            if not try_lock(file):
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_file_at(file, name):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _is_file_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


def try_lock(file: int) -> bool:
    """Lock an open file or folder until it is closed; return False if that is impossible."""
    if sys.platform == "win32":
        return False  # nor are locks needed there: an open file cannot be removed
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def part_of(path: Path) -> Path:
    """Return a new, unique name for a part of `path`."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")


def move_into_place(part: Path, path: Path) -> None:
    """Rename a complete, synced file, replacing whatever has its name, and sync the folder."""
    part.replace(path)
    with suppress(OSError):  # not every file system can sync a folder
        sync(path.parent.resolve())


def sync(path: Path) -> None:
    """Write a file's data, or a folder's entries, to disk; a link is an error."""
    file = os.open(path, os.O_RDONLY | _NO_FOLLOW)
    try:
        os.fsync(file)
    finally:
        os.close(file)
