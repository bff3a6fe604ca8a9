"""Lists of the files to download from a repository, with their sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING

from turbopilot.base.errors import HubUnreachable, InvalidInput, ModelNotFound, did_you_mean
from turbopilot.base.option_values import one_of
from turbopilot.hub.choice import (
    choose_files,
    gguf_models,
    gguf_type,
    has_weights,
    parts,
    safe,
    side_files,
)
from turbopilot.hub.client import plain_errors, retried
from turbopilot.hub.names import FILE_KINDS, REPO_ID, HubRequest, check_file

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

ONLY = ("tokenizer",)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ANSWER_WITHIN = 60.0  # seconds; the client itself has no timeout for listings


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """File of a repository.

    Attributes:
        name: path in the repository.
        n_bytes: size; 0 if the Hub does not report it.
        sha256: digest of a large file; "" for small files.
        blob: Git's SHA-1 of a small file; "" if the Hub does not report it.
    """

    name: str
    n_bytes: int
    sha256: str = ""
    blob: str = ""

    @property
    def checksum(self) -> str:
        """The digest that the Hub reports, which is the file's name in the client's cache; "" if there is none."""
        return self.sha256 or self.blob


@dataclass(frozen=True, slots=True)
class Listing:
    """Files to download from a repository.

    Attributes:
        repo: owner/name.
        commit: commit of `revision`.
        files: sorted by name, or in the order of a model's parts.
        revision: the requested branch, tag or commit.
        one_model: whether the files are a single model file, whole or in parts, and not a checkpoint.
    """

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    revision: str = "main"
    one_model: bool = False

    @property
    def n_bytes(self) -> int:
        """Total size of the files."""
        return sum(f.n_bytes for f in self.files)


def look_up(wanted: HubRequest) -> Listing:
    """Return the files to download for a request, with their sizes. Sends a request to the Hub."""
    check_wanted(wanted)
    from huggingface_hub import HfApi

    repo, revision = wanted.repo, wanted.revision
    with plain_errors(repo, revision):
        try:
            info = retried(
                lambda: HfApi().model_info(
                    repo, revision=revision, files_metadata=True, timeout=_ANSWER_WITHIN
                )
            )
        except (KeyError, TypeError, AttributeError, JSONDecodeError) as e:
            raise _not_a_hub(repo) from e
    if not _COMMIT.fullmatch(info.sha or ""):
        raise _not_a_hub(repo)
    found = {s.rfilename: _remote_file(s) for s in info.siblings or []}
    names = choose(wanted, found)
    return Listing(
        repo, info.sha, tuple(found[n] for n in names), revision or "main",
        one_model=names[0].lower().endswith(".gguf") or bool(wanted.file),
    )  # fmt: skip


def check_wanted(wanted: HubRequest) -> None:
    """Raise InvalidInput if the repository is not owner/name, or if fields exclude each other."""
    repo, only = wanted.repo, wanted.only
    if not REPO_ID.fullmatch(repo):
        raise InvalidInput(
            f"{repo}: not a repository of the Hub",
            hint="give owner/name, as in Salesforce/codegen-350M-mono",
        )
    if only:
        one_of("--only", only, ONLY)
    if (given := [x for x in (wanted.quant, wanted.file, only) if x])[1:]:
        raise InvalidInput(
            f"{repo}: {' and '.join(given)} exclude each other", hint="give only one of them"
        )
    if wanted.file:
        check_file(wanted.file)


def choose(wanted: HubRequest, found: Mapping[str, RemoteFile]) -> list[str]:
    """Return the names of the requested files among those in the repository."""
    repo, file = wanted.repo, wanted.file
    if file:
        return _whole(repo, parts(file) if file in found and safe(file) else (file,), found)
    if wanted.quant:
        return _whole(repo, _gguf(repo, wanted.quant, found), found)
    if wanted.only:
        names = side_files(found)
        if "config.json" not in names:
            raise ModelNotFound(
                f"{repo}: has no config.json, so it does not contain a checkpoint's tokenizer",
                hint="give the repository of the original model",
            )
        return names
    names = choose_files(found)
    return names if has_weights(names) else _whole(repo, _gguf(repo, "", found), found)


def _whole(repo: str, names: tuple[str, ...], found: Mapping[str, RemoteFile]) -> list[str]:
    if missing := [n for n in names if n not in found]:
        known = [n for n in found if n.lower().endswith(FILE_KINDS) and safe(n)]
        raise ModelNotFound(
            f"{repo}: has no file {missing[0]}",
            hint=did_you_mean(missing[0], known) if known else "the repository has no GGUF files",
        )
    return list(names)


def _gguf(repo: str, quant: str, found: Mapping[str, RemoteFile]) -> tuple[str, ...]:
    """Return the files of the GGUF model with a quantization type; if `quant` is "", those of the only GGUF model."""
    models = gguf_models(found)
    if not models and quant:
        stem = repo.partition("/")[2]
        raise ModelNotFound(
            f"{repo}: has no GGUF files, so none of type {quant}",
            hint=f"create one: turbopilot download {repo} --to {stem}; turbopilot convert {stem} -o {stem}-f16.gguf; "
            f"turbopilot quantize {stem}-f16.gguf {quant.upper()}",
        )
    if not models:
        raise ModelNotFound(
            f"{repo}: has no weights in safetensors, PyTorch or GGUF format",
            hint="give a repository with a model's weights; an adapter (LoRA) alone is not enough",
        )
    fitting = {
        label: files
        for label, files in models.items()
        if not quant or gguf_type(files[0]) == quant.upper()
    }
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    what = "several GGUF files" if fitting else "no GGUF file"
    of_type = f" of type {quant}" if quant else ""
    label = next(iter(fitting), "")
    separator = "/" if label.lower().endswith(".gguf") else ":"
    raise ModelNotFound(
        f"{repo}: has {what}{of_type}; available:\n  {_menu(models, found)}",
        hint=f"choose one: turbopilot download {repo}{separator}{label}"
        if fitting
        else did_you_mean(quant, models),
    )


def _menu(models: dict[str, tuple[str, ...]], found: Mapping[str, RemoteFile]) -> str:
    sizes = {k: sum(found[n].n_bytes for n in files if n in found) for k, files in models.items()}
    return "\n  ".join(
        f"{k} ({n / 1e6:,.1f} MB)" for k, n in sorted(sizes.items(), key=lambda kn: kn[1])
    )


def _remote_file(sibling: RepoSibling) -> RemoteFile:
    """Convert the client's description of a file; drop malformed checksums, because checksums become parts of paths."""
    large = sibling.lfs.sha256 if sibling.lfs else ""
    blob = sibling.blob_id or ""
    return RemoteFile(
        sibling.rfilename,
        sibling.size or 0,
        large if _SHA256.fullmatch(large) else "",
        blob if not sibling.lfs and _COMMIT.fullmatch(blob) else "",
    )


def _not_a_hub(repo: str) -> HubUnreachable:
    return HubUnreachable(
        f"{repo}: the response is not from a Hugging Face Hub",
        hint="check HF_ENDPOINT, and whether the network requires a login first",
    )
