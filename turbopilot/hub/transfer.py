"""Downloads that can be resumed and are checked against the Hub's checksums.

The Hub's client is not used for files, because it trusts the server: the ETag is a path in the cache, and nothing is
checked. Since version 1.18 it also discards a partial file when it is interrupted
(https://github.com/huggingface/huggingface_hub/pull/4306).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from turbopilot.base.atomic import check_disk, move_into_place, replacing
from turbopilot.base.errors import DownloadError, InvalidInput
from turbopilot.base.progress import Progress, silent
from turbopilot.hub.body import fetch_body
from turbopilot.hub.cache import remember, repo_cache
from turbopilot.hub.client import alone, plain_errors, retried
from turbopilot.hub.listing import Listing
from turbopilot.hub.repository import SHA256, RemoteFile
from turbopilot.hub.response import stated_metadata
from turbopilot.hub.safe_files import (
    make_folder,
    open_part,
    open_regular,
    part_size,
    place,
    read_start,
)

NOTE = "turbopilot-source.json"
"""Name of the file that `fetch` writes to a user's folder; it contains the repository and the commit."""
_BLOCK = 1 << 20


def fetch(listing: Listing, to: Path | None = None, progress: Progress = silent) -> Path:
    """Download a listing's missing files to `to`, or to the Hub's cache, and check them.

    Files are downloaded one at a time in this thread, because the client's thread pool would finish its files before
    Ctrl-C takes effect. Small files are downloaded first, so that a checkpoint that has all of its weights is complete.
    After an error, partial files are kept, so that the download can be resumed.

    Args:
        listing: from `look_up`.
        to: a folder; None for the Hub's cache.
        progress: called with the received bytes of a file, its size and its name, and then with the received bytes and
            the size of all files, without a name.

    Returns:
        The folder; for a single model file its path, or the path of its first part.
    """
    from huggingface_hub import constants

    room = to or Path(constants.HF_HUB_CACHE)
    try:
        room.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InvalidInput(
            f"{room}: cannot be created: {e.strerror}", hint="give another folder with --to"
        ) from e
    folder = to.resolve() if to else repo_cache(listing.repo) / "snapshots" / listing.commit
    with plain_errors(listing.repo, listing.commit), _named(folder), ExitStack() as held:
        if to:
            locks = make_folder(folder, ".cache", "huggingface")
            held.enter_context(alone(locks / "turbopilot.lock"))
        else:
            repo_cache(listing.repo).mkdir(exist_ok=True)  # it may be a link to another disk
        transfer = _Transfer(listing, folder, to is None, progress)
        hint = "free some space, or choose another folder with --to"
        check_disk(room, listing.n_bytes - transfer.n_bytes, hint)
        with _noted(listing, folder) if to else nullcontext():
            for file in sorted(listing.files, key=lambda f: bool(f.sha256)):
                with _named(folder / file.name):
                    transfer.bring(file)
        if not to:
            remember(listing.repo, listing.revision, listing.commit)
    return folder / listing.files[0].name if listing.one_model else folder


class _Transfer:
    """Download of a listing to a folder, or to a snapshot in the Hub's cache."""

    def __init__(self, listing: Listing, folder: Path, in_cache: bool, progress: Progress) -> None:
        self._listing, self._folder = listing, folder
        self._in_cache, self._progress = in_cache, progress
        self._cache = repo_cache(listing.repo)
        self._complete = not in_cache and _note(folder) == _source(listing)
        self._have = {f.name: self._bytes_of(f) for f in listing.files}
        self.n_bytes = sum(self._have.values())

    def bring(self, file: RemoteFile) -> None:
        """Download a file unless it is present, and check it."""
        path = self._folder / file.name
        present = path.is_file()
        if not file.checksum and not (present and (self._in_cache or self._complete)):
            file = self._with_header(file)
            present = present and bool(file.checksum)  # else it may be any file
        if not present or not self._is_it(file, path):
            if present and self._in_cache:
                raise _stranger(path, self._cache.parent)
            self._download(file)
        self._report(file, file.n_bytes)

    def _with_header(self, file: RemoteFile) -> RemoteFile:
        """Return a file that is listed without a checksum, with size and SHA-256 of its ETag if they are valid.

        An ETag of 40 digits is ignored: it is Git's SHA-1 on the Hub, but a plain SHA-1 elsewhere.
        """
        from huggingface_hub import constants

        url, timeout = self._url(file), constants.HF_HUB_ETAG_TIMEOUT
        n_bytes, etag = retried(lambda: stated_metadata(url, timeout))
        sha256 = etag if SHA256.fullmatch(etag) else ""
        return replace(file, n_bytes=file.n_bytes or n_bytes, sha256=sha256)

    def _url(self, file: RemoteFile) -> str:
        from huggingface_hub import hf_hub_url

        return str(hf_hub_url(self._listing.repo, file.name, revision=self._listing.commit))

    def _download(self, file: RemoteFile) -> None:
        """Download and check a file under the client's lock of its blob, and place it."""
        from huggingface_hub import constants

        *folders, name = file.name.split("/")
        if not self._in_cache:
            make_folder(self._folder, *folders)
            self._receive(file, self._part(file))
            move_into_place(self._part(file), self._folder / file.name)
            return
        cache = self._cache.parent
        make_folder(self._cache, "blobs")
        locks = make_folder(cache, ".locks", self._cache.name)
        with alone(locks / f"{self._key(file)}.lock"):
            blob, new = self._cache / "blobs" / file.checksum, False
            if not file.checksum or not blob.is_file():
                digest = self._receive(file, self._part(file))
                blob = self._cache / "blobs" / (file.checksum or digest)
                new = not blob.is_file()
                move_into_place(self._part(file), blob)
            elif not self._is_it(file, blob):
                raise _stranger(blob, cache)
            folder = make_folder(self._cache, "snapshots", self._listing.commit, *folders)
            place(blob, folder / name, links=not constants.HF_HUB_DISABLE_SYMLINKS, new=new)

    def _receive(self, file: RemoteFile, part: Path) -> str:
        """Copy a file from the cache or receive it, check it, and return its SHA-256 if there is no checksum."""
        if self._copied(file, part):
            return ""
        url, resume = self._url(file), bool(file.checksum)
        fetch_body(url, part, file.n_bytes, lambda n: self._report(file, n), resume=resume)
        if not file.checksum:
            return self._digest(file, part, hashlib.sha256())
        if not self._is_it(file, part):
            part.unlink()
            raise DownloadError(
                f"{self._listing.repo}: {file.name} was damaged during the download (its checksum differs)",
                hint="run it again",
            )
        return ""

    def _key(self, file: RemoteFile) -> str:
        """Return the file's checksum; if there is none, a digest of its commit and name."""
        source = f"{self._listing.commit}/{file.name}".encode()
        return file.checksum or hashlib.sha256(source).hexdigest()

    def _part(self, file: RemoteFile) -> Path:
        key = self._key(file)
        path = self._cache / "blobs" / key if self._in_cache else self._folder / file.name
        return path.with_name(f"{path.name}.{key[:8]}.part")

    def _bytes_of(self, file: RemoteFile) -> int:
        path = self._folder / file.name
        if path.is_file() and path.stat().st_size == file.n_bytes:
            return file.n_bytes
        return min(part_size(self._part(file)), file.n_bytes) if file.checksum else 0

    def _copied(self, file: RemoteFile, part: Path) -> bool:
        """Copy a file from the cache; return False if it is missing or damaged."""
        blob = self._cache / "blobs" / file.checksum
        if self._in_cache or not file.checksum or not blob.is_file():
            return False
        with open_regular(blob) as source, open_part(part) as f:
            f.seek(0)
            f.truncate()
            while block := source.read(_BLOCK):
                f.write(block)
                self._report(file, f.tell())
            f.flush()
            os.fsync(f.fileno())
        if self._is_it(file, part):
            return True
        part.unlink()
        return False

    def _is_it(self, file: RemoteFile, path: Path) -> bool:
        """Return whether size and checksum match those that the Hub reports; those that it does not are not checked."""
        size = path.stat().st_size
        if file.n_bytes and size != file.n_bytes:
            return False
        if not file.checksum:
            return True
        if file.sha256:
            return self._digest(file, path, hashlib.sha256()) == file.sha256
        git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        return self._digest(file, path, git) == file.blob

    def _digest(self, file: RemoteFile, path: Path, digest: hashlib._Hash) -> str:
        with open_regular(path) as f:
            while block := f.read(_BLOCK):
                digest.update(block)
                if file.sha256:
                    self._progress(f.tell(), file.n_bytes, f"checking {file.name}")
        return digest.hexdigest()

    def _report(self, file: RemoteFile, n: int) -> None:
        self.n_bytes += n - self._have[file.name]
        self._have[file.name] = n
        self._progress(n, file.n_bytes, file.name)
        total = self._listing.n_bytes  # without unlisted sizes
        self._progress(min(self.n_bytes, total), total)


def _stranger(path: Path, cache: Path) -> DownloadError:
    """Return the error for a wrong file; the hint names the file behind a link only if it is in the cache."""
    real = path.resolve()
    return DownloadError(
        f"{path}: is not the file that the Hub lists (size or checksum differs)",
        hint=f"delete it and run it again: rm {real if real.is_relative_to(cache.resolve()) else path}",
    )


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the path of a file to errors of reads and writes, which have none."""
    try:
        yield
    except OSError as e:
        if e.errno and not e.filename:
            e.filename = str(path)
        raise


def _source(listing: Listing) -> str:
    """Return the content of a checkpoint's note."""
    source = {"repository": listing.repo, "revision": listing.commit}
    return json.dumps(source, indent=2) + "\n"


def _note(folder: Path) -> str:
    return read_start(folder / NOTE, 1000).decode("utf-8", "replace")


@contextmanager
def _noted(listing: Listing, folder: Path) -> Iterator[None]:
    """Write a checkpoint's repository and commit to `NOTE` after the download; delete a different, older note first."""
    if listing.one_model:
        yield
        return
    note = folder / NOTE
    if _note(folder) != _source(listing):
        note.unlink(missing_ok=True)
    yield
    with replacing(note) as part:
        part.write_text(_source(listing), encoding="utf-8")
