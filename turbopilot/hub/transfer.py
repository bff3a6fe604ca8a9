"""Bring a listing's files here, checked against the hub's checksums; what is interrupted goes on the next time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from turbopilot.base.atomic import check_disk, replacing
from turbopilot.base.errors import DownloadError, InvalidInput, NotEnoughDisk
from turbopilot.base.progress import Progress, silent
from turbopilot.hub.body import fetch_body
from turbopilot.hub.cache import remember, repo_cache
from turbopilot.hub.client import alone, no_bars
from turbopilot.hub.errors import plain_errors
from turbopilot.hub.listing import Listing, RemoteFile
from turbopilot.hub.retry import retried

NOTE = "turbopilot-source.json"
"""What `fetch` leaves in a folder of the user's: the repository and the commit."""
_BLOCK = 1 << 20


def fetch(listing: Listing, to: Path | None = None, progress: Progress = silent) -> Path:
    """Download what `listing` names into `to`, or into the hub's own cache, and check that it is that.

    Files that are there already are not fetched again, and a large one goes on where it stopped. One after
    the other and in this thread: the client's pool of threads would finish its files before Ctrl-C counts.
    Small files come first, so that a checkpoint whose weights are whole is whole.

    Args:
        listing: from `look_up`.
        to: a folder; None for the hub's cache.
        progress: called with the bytes of a file that are here, its size and its name, and then with the
            same of all files and no name.

    Returns:
        The folder; of a single model its file, or the first of its parts.

    Raises:
        NotEnoughDisk, HubUnreachable, ModelNotFound: what came so far stays; run it again to go on.
        DownloadError: a file is not the one that the hub lists.
        InvalidInput: `to` cannot be made.
    """
    from huggingface_hub import constants

    room = to or Path(constants.HF_HUB_CACHE)
    try:
        room.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InvalidInput(
            f"{room}: cannot be made: {e.strerror}", hint="give another folder with --to"
        ) from e
    folder = to.resolve() if to else repo_cache(listing.repo) / "snapshots" / listing.commit
    turn = alone(folder / ".cache" / "huggingface" / "turbopilot.lock") if to else nullcontext()
    with plain_errors(listing.repo, listing.commit), no_bars(), turn:
        here = _Here(listing, folder, to is None, progress)
        try:
            check_disk(room, listing.n_bytes - here.n_bytes)
        except NotEnoughDisk as e:
            raise NotEnoughDisk(
                e.message, hint="free some space, or choose another folder with --to"
            ) from e
        with _noted(listing, folder) if to else nullcontext():
            for file in sorted(listing.files, key=lambda f: bool(f.sha256)):
                here.bring(file)
        if not to:
            remember(listing.repo, listing.revision, listing.commit)
    return folder / listing.files[0].name if listing.one_model else folder


class _Here:
    """What is here of a listing's files."""

    def __init__(self, listing: Listing, folder: Path, in_cache: bool, progress: Progress) -> None:
        self._listing = listing
        self._folder = folder
        self._in_cache = in_cache
        self._progress = progress
        self._have = {f.name: self._bytes_of(f) for f in listing.files}
        self.n_bytes = sum(self._have.values())

    def bring(self, file: RemoteFile) -> None:
        """Fetch the file where it is not here, and check it.

        Raises:
            DownloadError: it is another than the hub's.
        """
        path = self._folder / file.name
        if file.checksum:
            if path.is_file():
                if self._is_it(file, path):
                    return self._report(file, file.n_bytes)
                if self._in_cache:
                    raise _stranger(path)
            self._bring_checked(file)
        if self._in_cache or not file.checksum:
            self._by_client(file)  # where it is there already it only links to it
        if not file.checksum and not self._is_it(file, path):
            # The client only warns where the hub refuses and an older file lies there.
            raise _stranger(path)
        return self._report(file, file.n_bytes)

    def _by_client(self, file: RemoteFile) -> None:
        from huggingface_hub import hf_hub_download

        to = None if self._in_cache else self._folder
        commit = self._listing.commit
        retried(
            lambda: hf_hub_download(self._listing.repo, file.name, revision=commit, local_dir=to)
        )

    def _bring_checked(self, file: RemoteFile) -> None:
        from huggingface_hub import hf_hub_url

        landing = self._landing(file)
        landing.parent.mkdir(parents=True, exist_ok=True)
        cache = repo_cache(self._listing.repo)
        lock = cache.parent / ".locks" / cache.name / f"{file.checksum}.lock"  # the client's own
        with alone(lock) if self._in_cache else nullcontext():
            if self._in_cache and landing.is_file():
                return  # of another revision, or another process was faster
            part = self._part(file)
            if not self._copied(file, cache / "blobs" / file.checksum, part):
                url = hf_hub_url(self._listing.repo, file.name, revision=self._listing.commit)
                fetch_body(url, part, file.n_bytes, lambda n: self._report(file, n))
                if not self._is_it(file, part):
                    part.unlink()
                    raise self._damaged(file)
            part.replace(landing)

    def _landing(self, file: RemoteFile) -> Path:
        """Where a file is put together: in the cache the client finds it by its checksum."""
        if self._in_cache:
            return repo_cache(self._listing.repo) / "blobs" / file.checksum
        return self._folder / file.name

    def _part(self, file: RemoteFile) -> Path:
        landing = self._landing(file)
        return landing.with_name(f"{landing.name}.{file.checksum[:8]}.part")

    def _bytes_of(self, file: RemoteFile) -> int:
        path = self._folder / file.name
        if path.is_file() and path.stat().st_size == file.n_bytes:
            return file.n_bytes
        part = self._part(file)
        return min(part.stat().st_size, file.n_bytes) if file.checksum and part.is_file() else 0

    def _copied(self, file: RemoteFile, blob: Path, part: Path) -> bool:
        """Copy a file that the cache has, so that it is not fetched again; False where it has none."""
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
        """Whether size and checksum are the hub's, as far as it tells them."""
        if file.n_bytes and path.stat().st_size != file.n_bytes:
            return False
        if not file.checksum:
            return True
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(usedforsecurity=False)
        if not file.sha256:  # git's name of a blob
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

    def _damaged(self, file: RemoteFile) -> DownloadError:
        return DownloadError(
            f"{self._listing.repo}: {file.name} was damaged on the way (its checksum differs)",
            hint="run it again",
        )


def _stranger(path: Path) -> DownloadError:
    return DownloadError(
        f"{path}: is not the file that the hub lists (size or checksum differs)",
        hint=f"delete it and run it again: rm {path.resolve()}",
    )


@contextmanager
def _noted(listing: Listing, folder: Path) -> Iterator[None]:
    """Leave a note of the origin when all has come; none stays of what the folder held before."""
    source = {"repository": listing.repo, "revision": listing.commit}
    note = folder / NOTE
    if listing.one_model:
        yield
        return
    with suppress(FileNotFoundError):
        if note.read_text(encoding="utf-8") != _text(source):
            note.unlink()
    yield
    with replacing(note) as part:
        part.write_text(_text(source), encoding="utf-8")


def _text(source: dict[str, str]) -> str:
    return json.dumps(source, indent=2) + "\n"
