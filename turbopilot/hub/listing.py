"""Lists of the files to download from a repository, with their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from turbopilot.base.errors import InvalidInput, ModelNotFound, did_you_mean
from turbopilot.base.option_values import one_of
from turbopilot.hub.choice import (
    choose_files,
    gguf_models,
    gguf_type,
    has_weights,
    is_path,
    parts,
    safe,
    side_files,
)
from turbopilot.hub.client import plain_errors
from turbopilot.hub.names import FILE_KINDS, REPO_ID, HubRequest, check_file, check_revision
from turbopilot.hub.repository import RemoteFile, read_repository

ONLY = ("tokenizer",)
_MOST_SUGGESTED = 1000  # names; each is compared with the missing one
_LONGEST_MENU = 50  # models


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
    with plain_errors(wanted.repo, wanted.revision):
        commit, found = read_repository(wanted.repo, wanted.revision)
    names = choose(wanted, found)
    return Listing(
        wanted.repo, commit, tuple(found[n] for n in names), wanted.revision or "main",
        one_model=names[0].lower().endswith(".gguf") or bool(wanted.file),
    )  # fmt: skip


def check_wanted(wanted: HubRequest) -> None:
    """Raise InvalidInput if a name of repository, revision or file is malformed, or if fields exclude each other."""
    from huggingface_hub.utils import validate_repo_id

    repo, only = wanted.repo, wanted.only
    if not REPO_ID.fullmatch(repo):
        raise InvalidInput(
            f"{repo}: not a repository of the Hub",
            hint="give owner/name, as in Salesforce/codegen-350M-mono",
        )
    with plain_errors(repo, None):
        validate_repo_id(repo)
    if wanted.revision is not None:
        check_revision(wanted.revision)
    if only:
        one_of("--only", only, ONLY)
    if (given := [x for x in (wanted.quant, wanted.file, only) if x])[1:]:
        raise InvalidInput(
            f"{repo}: {' and '.join(given)} exclude each other", hint="give only one of them"
        )
    if wanted.file:
        check_file(wanted.file)
        if not is_path(wanted.file):
            raise InvalidInput(
                f"{wanted.file!r:.100}: not a path of a file in a repository",
                hint="give owner/name/FILE.gguf",
            )


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
            hint=did_you_mean(missing[0], known[:_MOST_SUGGESTED])
            if known
            else "the repository has no GGUF files",
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
        else did_you_mean(quant, list(models)[:_MOST_SUGGESTED]),
    )


def _menu(models: dict[str, tuple[str, ...]], found: Mapping[str, RemoteFile]) -> str:
    sizes = {k: sum(found[n].n_bytes for n in files if n in found) for k, files in models.items()}
    shown = sorted(sizes.items(), key=lambda kn: kn[1])
    lines = [f"{k} ({n / 1e6:,.1f} MB)" for k, n in shown[:_LONGEST_MENU]]
    return "\n  ".join(lines + ["…"] * (len(shown) > _LONGEST_MENU))
