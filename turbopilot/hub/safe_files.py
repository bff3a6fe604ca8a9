"""File operations for downloads that never write through a link and never open a pipe or a device.

A folder may hold planted entries, for example after a stranger's archive was unpacked in it. Races with another process
that swaps folders meanwhile are not covered. Windows lacks O_NOFOLLOW and O_NONBLOCK; there, only the checks before
and after opening protect.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from turbopilot.base.atomic import move_into_place, replacing
from turbopilot.base.errors import DownloadError

_BLOCK = 1 << 20
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def make_folder(root: Path, *names: str) -> Path:
    """Create and return the folder `names` below an existing folder; raise DownloadError if one of them is a link."""
    for name in names:
        root = root / name
        root.mkdir(exist_ok=True)
        if not stat.S_ISDIR(root.lstat().st_mode):
            raise DownloadError(
                f"{root}: is a link, so nothing is written below it",
                hint="replace it by a folder, or choose another folder with --to",
            )
    return root


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading; raise OSError for pipes, devices and folders."""
    return _regular(os.open(path, os.O_RDONLY | _FLAGS), path, "rb")


def remove_planted(path: Path) -> None:
    """Remove a link, pipe, device, or file with a second name (a hard link), to which nothing must be written."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            path.unlink()


def open_part(path: Path) -> BinaryIO:
    """Open a partial file to append to it, or create it.

    What is not a regular file is removed first, not opened.
    """
    remove_planted(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_FOLLOW | _FLAGS
    return _regular(os.open(path, flags, 0o666), path, "ab")


def _regular(file: int, path: Path, mode: str) -> BinaryIO:
    if stat.S_ISREG(os.fstat(file).st_mode):
        return cast("BinaryIO", os.fdopen(file, mode, buffering=_BLOCK))
    os.close(file)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def part_size(path: Path) -> int:
    """Return the size of a partial file that can be resumed; 0 if there is none."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            return found.st_size
    return 0


def read_start(path: Path, most: int) -> bytes:
    """Return a file's first `most` bytes; b"" if it is missing, a pipe, a device or a folder."""
    with suppress(OSError), open_regular(path) as file:
        return file.read(most)
    return b""


def place(blob: Path, path: Path, *, links: bool, new: bool) -> None:
    """Put a blob of the Hub's cache at a name in a snapshot, as the Hub's client does.

    Args:
        blob: a file in blobs/.
        path: its name in the snapshot; replaced if it is a link, for example to a missing blob.
        links: whether symbolic links are wanted; if the file system has none, the blob is moved or copied too.
        new: whether no other snapshot may refer to the blob, so that it can be moved.
    """
    if links and _linked(blob, path):
        return
    if new:
        move_into_place(blob, path)
        return
    with open_regular(blob) as source, replacing(path) as part, part.open("wb") as f:
        while block := source.read(_BLOCK):
            f.write(block)


def _linked(blob: Path, path: Path) -> bool:
    """Replace a link, and return False if the file system has no links, or Windows does not allow them."""
    if path.is_symlink():
        path.unlink()
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError as e:
        if os.name != "nt" and e.errno not in _NO_LINKS:
            raise
        return False
    return True
