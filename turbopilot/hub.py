"""Fetch a checkpoint from the Hugging Face Hub: only what is needed, never code. Knows nothing of its contents."""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path

from turbopilot.atomic import check_disk
from turbopilot.errors import (
    DownloadError,
    HubUnreachable,
    InvalidInput,
    ModelNotFound,
    NotEnoughDisk,
)

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SIDE_FILES = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja",
    "README.md", "LICENSE",
}  # fmt: skip
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")
_PICKLES = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin|pytorch_model\.bin\.index\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ANSWER_WITHIN = 60.0  # seconds; the client itself would wait for a listing for ever


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository, its size in bytes and, of large files, its SHA-256 ("" of others)."""

    name: str
    n_bytes: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What would be fetched of a repository, at one commit."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return sum(f.n_bytes for f in self.files)


def choose_files(names: Iterable[str]) -> list[str]:
    """The files that conversion needs: config, tokenizer, and weights as safetensors, or else as pickles.

    >>> choose_files(["config.json", "model.safetensors", "pytorch_model.bin", "modeling_evil.py", "a/config.json"])
    ['config.json', 'model.safetensors']
    """
    names = sorted(names)
    side = [n for n in names if n in _SIDE_FILES]
    weights = [n for n in names if _SAFETENSORS.fullmatch(n)]
    if not any(n.endswith(".safetensors") for n in weights):
        weights = [n for n in names if _PICKLES.fullmatch(n)]
    # The same weights twice, in shards and in one file: an index says that the shards are to be read.
    if any(n.endswith(".index.json") for n in weights) and any("-of-" in n for n in weights):
        weights = [n for n in weights if n not in ("model.safetensors", "pytorch_model.bin")]
    return sorted(side + weights)


def look_up(repo: str, revision: str | None = None) -> Listing:
    """Ask the hub which files of a repository are needed, and how large they are.

    Raises:
        InvalidInput: `repo` is not of the form owner/name.
        ModelNotFound: there is no such repository or revision, it is closed to us, or it has no weights.
        HubUnreachable: the hub did not answer.
    """
    if not REPO_ID.fullmatch(repo):
        raise InvalidInput(
            f"{repo}: not a repository of the Hub",
            hint="give owner/name, as in Salesforce/codegen-350M-mono",
        )
    from huggingface_hub import HfApi

    with _HubErrors(repo, revision):
        try:
            info = HfApi().model_info(
                repo, revision=revision, files_metadata=True, timeout=_ANSWER_WITHIN
            )
        except (KeyError, TypeError, JSONDecodeError) as e:
            raise HubUnreachable(
                f"{repo}: what answered is not a Hugging Face Hub",
                hint="check HF_ENDPOINT, and whether the network asks for a login first",
            ) from e
    found = {
        s.rfilename: RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else "")
        for s in info.siblings or []
    }
    files = tuple(found[n] for n in choose_files(found))
    if not any(f.name.endswith((".safetensors", ".bin")) for f in files):
        raise ModelNotFound(
            f"{repo}: holds no weights as safetensors or PyTorch files",
            hint="is it a repository of a model, and not of GGUF files?",
        )
    return Listing(repo, info.sha or "main", files)


def fetch(listing: Listing, to: Path | None = None) -> Path:
    """Download what `listing` names into `to`, or into the hub's own cache, and check that it is that.

    Files that are there already are not fetched again, and a large one goes on where it stopped. One after
    the other and in this thread: the client's pool of threads would finish its files before Ctrl-C counts.

    Raises:
        NotEnoughDisk, HubUnreachable, ModelNotFound: what came so far stays; run it again to go on.
        DownloadError: a file is not the one that the hub lists.
    """
    from huggingface_hub import constants, hf_hub_download

    folder = to or Path(constants.HF_HUB_CACHE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InvalidInput(
            f"{folder}: cannot be made: {e.strerror}", hint="give another folder with --to"
        ) from e
    check_disk(folder, sum(f.n_bytes - _bytes_there(listing, f, to) for f in listing.files))
    with _HubErrors(listing.repo, listing.commit):
        for file in listing.files:
            if _SHA256.fullmatch(file.sha256) and not _bytes_there(listing, file, to):
                _fetch_large(listing, file, to)
            path = hf_hub_download(listing.repo, file.name, revision=listing.commit, local_dir=to)
            _check(file, Path(path))
    return to.resolve() if to else Path(path).parent


def _bytes_there(listing: Listing, file: RemoteFile, to: Path | None) -> int:
    """The file's size, or 0 where it is yet to be fetched."""
    from huggingface_hub import try_to_load_from_cache

    if to:
        there = (to / file.name).is_file() and (to / file.name).stat().st_size == file.n_bytes
    else:
        cached = try_to_load_from_cache(listing.repo, file.name, revision=listing.commit)
        there = isinstance(cached, str)
    return file.n_bytes if there else 0


def _fetch_large(listing: Listing, file: RemoteFile, to: Path | None) -> None:
    """Put a large file where the client finds it; it takes over what has the right checksum.

    Since its version 1.18 the client itself throws away what it has of a file when it is interrupted
    (https://github.com/huggingface/huggingface_hub/pull/4306). The cache's layout is documented:
    https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers

    name = repo_folder_name(repo_id=listing.repo, repo_type="model")
    path = to / file.name if to else Path(constants.HF_HUB_CACHE, name, "blobs", file.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{file.sha256[:8]}.part")
    with part.open("ab") as f:
        http_get(
            hf_hub_url(listing.repo, file.name, revision=listing.commit),
            f,
            resume_size=f.tell(),
            headers=build_hf_headers(),
            expected_size=file.n_bytes,
            displayed_filename=file.name,
        )
    if _sha256(part) != file.sha256:
        part.unlink()
        raise DownloadError(
            f"{listing.repo}: {file.name} was damaged on the way (its checksum differs)",
            hint="run it again",
        )
    part.replace(path)


def _check(file: RemoteFile, path: Path) -> None:
    """The client only warns where the hub refuses and an older file lies there.

    Raises:
        DownloadError: the file is another than the hub's.
    """
    if path.stat().st_size != file.n_bytes or (file.sha256 and _sha256(path) != file.sha256):
        raise DownloadError(
            f"{path}: is not the file that the hub lists (size or checksum differs)",
            hint=f"delete it and run it again: rm {path.resolve()}",
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class _HubErrors:
    """Turns the hub client's many exceptions into our few, with what to do."""

    def __init__(self, repo: str, revision: str | None) -> None:
        self.repo, self.revision = repo, revision

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: object
    ) -> None:
        from huggingface_hub import errors as hub

        if e is None:
            return
        if isinstance(e, hub.GatedRepoError):
            raise ModelNotFound(
                f"{self.repo}: its owner asks for an agreement first",
                hint=f"agree on https://huggingface.co/{self.repo}, then: hf auth login",
            ) from e
        if isinstance(e, hub.RepositoryNotFoundError):
            raise ModelNotFound(
                f"{self.repo}: no such repository (or a private one)",
                hint="check the spelling; if it is private: hf auth login",
            ) from e
        if isinstance(e, hub.RevisionNotFoundError):
            raise ModelNotFound(
                f"{self.repo}: no revision {self.revision!r}",
                hint="give a branch, tag or commit of it",
            ) from e
        if isinstance(e, hub.HFValidationError):
            raise InvalidInput(
                f"{self.repo}: not a repository's name", hint="give owner/name"
            ) from e
        if (
            isinstance(e, hub.HfHubHTTPError)
            and e.response is not None
            and e.response.status_code in (401, 403)
        ):
            raise ModelNotFound(
                f"{self.repo}: the hub refuses ({e.response.status_code})",
                hint="log in: hf auth login",
            ) from e
        if isinstance(
            e,
            (
                hub.OfflineModeIsEnabled,
                hub.LocalEntryNotFoundError,
                hub.HfHubHTTPError,
                ConnectionError,
            ),
        ) or (type(e).__module__.startswith("httpx")):
            raise HubUnreachable(
                f"{self.repo}: the hub did not answer: {str(e).splitlines()[0] if str(e) else type(e).__name__}",
                hint="check the network, HF_ENDPOINT and HF_HUB_OFFLINE; run it again to resume",
            ) from e
        if isinstance(e, OSError) and e.errno == errno.ENOSPC:
            raise NotEnoughDisk(
                f"{self.repo}: the disk is full",
                hint="free some space, or choose another with --to",
            ) from e
        if isinstance(e, OSError):
            raise DownloadError(f"{self.repo}: {e}", hint="run it again to resume") from e
