"""Fetch a checkpoint from the Hugging Face Hub: only what is needed, never code. Knows nothing of its contents."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from turbopilot.atomic import check_disk
from turbopilot.errors import DownloadError, HubUnreachable, InvalidInput, ModelNotFound

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SIDE_FILES = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja",
    "README.md", "LICENSE",
}  # fmt: skip
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")
_PICKLES = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin|pytorch_model\.bin\.index\.json")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository and its size in bytes."""

    name: str
    n_bytes: int


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
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    sizes = {s.rfilename: s.size or 0 for s in info.siblings or []}
    files = tuple(RemoteFile(n, sizes[n]) for n in choose_files(sizes))
    if not any(f.name.endswith((".safetensors", ".bin")) for f in files):
        raise ModelNotFound(
            f"{repo}: holds no weights as safetensors or PyTorch files",
            hint="is it a repository of a model, and not of GGUF files?",
        )
    return Listing(repo, info.sha or "main", files)


def fetch(listing: Listing, to: Path | None = None) -> Path:
    """Download what `listing` names into `to`, or into the hub's own cache; resumes where it was interrupted.

    Raises:
        NotEnoughDisk, HubUnreachable, DownloadError: nothing is lost; run it again to go on.
    """
    from huggingface_hub import constants, snapshot_download

    folder = to or Path(constants.HF_HUB_CACHE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InvalidInput(
            f"{folder}: cannot be made: {e.strerror}", hint="give another folder with --to"
        ) from e
    check_disk(folder, listing.n_bytes - _already_there(folder, listing) if to else 0)
    with _HubErrors(listing.repo, listing.commit):
        return Path(
            snapshot_download(
                listing.repo,
                revision=listing.commit,
                allow_patterns=[f.name for f in listing.files],
                local_dir=to,
            )
        )


def _already_there(folder: Path, listing: Listing) -> int:
    return sum(f.n_bytes for f in listing.files if (folder / f.name).is_file())


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
        if isinstance(e, OSError):
            raise DownloadError(f"{self.repo}: {e}", hint="run it again to resume") from e
