"""Downloads that can be resumed and are checked against the Hub's checksums.

The Hub's client downloads only files without a checksum, because since version 1.18 it discards a partial file when it
is interrupted (https://github.com/huggingface/huggingface_hub/pull/4306).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from turbopilot.base.atomic import check_disk, replacing
from turbopilot.base.errors import DownloadError, InvalidInput
from turbopilot.base.progress import Progress, silent
from turbopilot.hub.cache import remember, repo_cache
from turbopilot.hub.client import Retries, alone, plain_errors, retried
from turbopilot.hub.listing import Listing, RemoteFile

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
    lock = alone(folder / ".cache" / "huggingface" / "turbopilot.lock") if to else nullcontext()
    with plain_errors(listing.repo, listing.commit), lock:
        transfer = _Transfer(listing, folder, to is None, progress)
        hint = "free some space, or choose another folder with --to"
        check_disk(room, listing.n_bytes - transfer.n_bytes, hint)
        with _noted(listing, folder) if to else nullcontext():
            for file in sorted(listing.files, key=lambda f: bool(f.sha256)):
                transfer.bring(file)
        if not to:
            remember(listing.repo, listing.revision, listing.commit)
    return folder / listing.files[0].name if listing.one_model else folder


class _Transfer:
    """Download of a listing to a folder, or to a snapshot in the Hub's cache."""

    def __init__(self, listing: Listing, folder: Path, in_cache: bool, progress: Progress) -> None:
        self._listing, self._folder = listing, folder
        self._in_cache, self._progress = in_cache, progress
        self._blobs = repo_cache(listing.repo) / "blobs"
        self._have = {f.name: self._bytes_of(f) for f in listing.files}
        self.n_bytes = sum(self._have.values())

    def bring(self, file: RemoteFile) -> None:
        """Download a file unless it is present, and check it."""
        path = self._folder / file.name
        if not file.checksum:
            self._by_client(file)
            # If the Hub denies access and there is an older file, the client only warns.
            if not self._is_it(file, path):
                raise _stranger(path)
        elif path.is_file() and self._is_it(file, path):
            pass
        elif path.is_file() and self._in_cache:
            raise _stranger(path)
        else:
            self._by_us(file)
            if self._in_cache:
                self._by_client(file)  # finds the blob and links to it
        self._report(file, file.n_bytes)

    def _by_client(self, file: RemoteFile) -> None:
        from huggingface_hub import hf_hub_download

        to = None if self._in_cache else self._folder
        repo, commit = self._listing.repo, self._listing.commit
        retried(lambda: hf_hub_download(repo, file.name, revision=commit, local_dir=to))

    def _by_us(self, file: RemoteFile) -> None:
        from huggingface_hub import hf_hub_url

        repo, landing, part = self._listing.repo, self._landing(file), self._part(file)
        landing.parent.mkdir(parents=True, exist_ok=True)
        cache = repo_cache(repo)
        lock = cache.parent / ".locks" / cache.name / f"{file.checksum}.lock"  # the client's lock
        with alone(lock) if self._in_cache else nullcontext():
            if self._in_cache and landing.is_file():
                return  # downloaded for another revision or by another process
            if not self._copied(file, part):
                url = hf_hub_url(repo, file.name, revision=self._listing.commit)
                _fetch_body(url, part, file.n_bytes, lambda n: self._report(file, n))
                if not self._is_it(file, part):
                    part.unlink()
                    raise DownloadError(
                        f"{repo}: {file.name} was damaged during the download (its checksum differs)",
                        hint="run it again",
                    )
            part.replace(landing)

    def _landing(self, file: RemoteFile) -> Path:
        """Return the path of a downloaded file; in the cache its name is the checksum, as the client expects."""
        return self._blobs / file.checksum if self._in_cache else self._folder / file.name

    def _part(self, file: RemoteFile) -> Path:
        landing = self._landing(file)
        return landing.with_name(f"{landing.name}.{file.checksum[:8]}.part")

    def _bytes_of(self, file: RemoteFile) -> int:
        path = self._folder / file.name
        if path.is_file() and path.stat().st_size == file.n_bytes:
            return file.n_bytes
        part = self._part(file)
        return min(part.stat().st_size, file.n_bytes) if file.checksum and part.is_file() else 0

    def _copied(self, file: RemoteFile, part: Path) -> bool:
        """Copy a file from the cache; return False if it is missing or damaged."""
        blob = self._blobs / file.checksum
        if not blob.is_file():
            return False
        with blob.open("rb") as source, part.open("wb") as f:
            while block := source.read(_BLOCK):
                f.write(block)
                self._report(file, f.tell())
        if self._is_it(file, part):
            return True
        part.unlink()
        return False

    def _is_it(self, file: RemoteFile, path: Path) -> bool:
        """Return whether size and checksum match those that the Hub reports; those that it does not are not checked."""
        if file.n_bytes and path.stat().st_size != file.n_bytes:
            return False
        if not file.checksum:
            return True
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(usedforsecurity=False)
        if not file.sha256:  # Git's hash of a blob
            digest.update(b"blob %d\0" % file.n_bytes)
        with path.open("rb") as f:
            while block := f.read(_BLOCK):
                digest.update(block)
                if file.sha256:
                    self._progress(f.tell(), file.n_bytes, f"checking {file.name}")
        return digest.hexdigest() == file.checksum

    def _report(self, file: RemoteFile, n: int) -> None:
        self.n_bytes += n - self._have[file.name]
        self._have[file.name] = n
        self._progress(n, file.n_bytes, file.name)
        self._progress(self.n_bytes, self._listing.n_bytes)


def _fetch_body(url: str, part: Path, n_bytes: int, report: Callable[[int], None]) -> None:
    """Append the rest of a file of `n_bytes` to `part`, with retries; call `report` with the bytes received so far.

    The token is sent to the Hub at `url`, but not to the host that it redirects to.
    """
    retries = Retries(network=True)
    with part.open("ab", buffering=_BLOCK) as f:
        if f.tell() > n_bytes:
            f.truncate(0)
            f.seek(0)
        while (begun := f.tell()) < n_bytes:
            try:
                _receive(url, f, n_bytes, report)
                if f.tell() == begun:
                    raise ConnectionError("the response has no body")
            except Exception as e:
                if f.tell() > begun:
                    retries.failed = 0
                retries.wait(e)
        f.flush()
        os.fsync(f.fileno())


def _receive(url: str, f: BinaryIO, n_bytes: int, report: Callable[[int], None]) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    begin = f.tell()
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        span = response.headers.get("Content-Range", "")
        if begin and not (response.status_code == 206 and span.startswith(f"bytes {begin}-")):
            f.seek(0)  # the server ignores ranges and sends the whole file, or sends another range
            f.truncate()
            if response.status_code == 206:
                raise ConnectionError(f"requested bytes from {begin}, received {span!r}")
        report(f.tell())
        for piece in response.iter_bytes():
            if f.tell() + len(piece) > n_bytes:
                raise DownloadError(
                    f"{url}: the server sent more than the {n_bytes:,} bytes that the Hub lists",
                    hint="if HF_ENDPOINT names a mirror, try without it",
                )
            f.write(piece)
            report(f.tell())


def _stranger(path: Path) -> DownloadError:
    return DownloadError(
        f"{path}: is not the file that the Hub lists (size or checksum differs)",
        hint=f"delete it and run it again: rm {path.resolve()}",
    )


@contextmanager
def _noted(listing: Listing, folder: Path) -> Iterator[None]:
    """Write a checkpoint's repository and commit to `NOTE` after the download; delete a different, older note first."""
    if listing.one_model:
        yield
        return
    note = folder / NOTE
    source = {"repository": listing.repo, "revision": listing.commit}
    text = json.dumps(source, indent=2) + "\n"
    with suppress(FileNotFoundError):
        if note.read_text(encoding="utf-8") != text:
            note.unlink()
    yield
    with replacing(note) as part:
        part.write_text(text, encoding="utf-8")
