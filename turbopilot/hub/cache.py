"""Look-up of files in the Hub's cache on this machine, without requests.

Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from turbopilot.base.atomic import replacing
from turbopilot.base.errors import ModelNotFound, TurboPilotError
from turbopilot.hub.choice import TOKENIZERS, has_weights
from turbopilot.hub.listing import check_wanted, choose
from turbopilot.hub.names import HubRequest
from turbopilot.hub.repository import COMMIT, RemoteFile
from turbopilot.hub.safe_files import make_folder, read_start

_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# This file is a cache directory tag created by huggingface_hub.
# For information about cache directory tags, see:
#\thttps://bford.info/cachedir/
"""
_LARGEST_INDEX = 64 << 20  # bytes; that of a model with 10,000 tensors has about 1 MB


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids requests to the Hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def hub_cache() -> Path:
    """Return the folder of the Hub's cache; the folder may not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repo_cache(repo: str) -> Path:
    """Return the folder of a repository in the Hub's cache; the folder may not exist."""
    from huggingface_hub.file_download import repo_folder_name

    return Path(hub_cache(), repo_folder_name(repo_id=repo, repo_type="model"))


def cached(wanted: HubRequest) -> Path | None:
    """Return the same path as `fetch` if all files are in the Hub's cache; None otherwise.

    It does not matter which program downloaded them. A checkpoint is complete if it has a config, a tokenizer and every
    weight file that its index names. A branch or tag refers to the commit of its last download.
    """
    check_wanted(wanted)
    folder = _snapshot(wanted.repo, wanted.revision or "main")
    if folder is None:
        return None
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    try:
        names = choose(wanted, {n: RemoteFile(n, (folder / n).stat().st_size) for n in names})
    except ModelNotFound:
        return None
    if wanted.file or names[0].lower().endswith(".gguf"):
        return folder / names[0]
    whole = wanted.only or (has_weights(names) and _all_shards(folder, names))
    return folder if whole and "config.json" in names and set(TOKENIZERS) & set(names) else None


def remember(repo: str, revision: str, commit: str) -> None:
    """Store the commit of a branch or tag in the cache, and tag the cache for backup programs, as the client does."""
    root = repo_cache(repo)
    tag = root.parent / "CACHEDIR.TAG"
    if not tag.exists():
        with suppress(OSError, TurboPilotError), replacing(tag) as part:
            part.write_text(_TAG)
    if revision == commit or _commit_of(root, revision) == commit:
        return
    *folders, name = "refs", *revision.split("/")
    with replacing(make_folder(root, *folders) / name) as part:
        part.write_text(commit)


def _commit_of(root: Path, revision: str) -> str:
    """Return the stored commit of a branch or tag; the revision itself if there is none."""
    return read_start(root / "refs" / revision, 100).decode("ascii", "replace").strip() or revision


def _snapshot(repo: str, revision: str) -> Path | None:
    root = repo_cache(repo)
    commit = _commit_of(root, revision)
    folder = root / "snapshots" / commit
    return folder if COMMIT.fullmatch(commit) and folder.is_dir() else None


def _all_shards(folder: Path, names: list[str]) -> bool:
    """Return whether all files of the index are present; a checkpoint with a single weight file has no index."""
    shards = [n for n in names if "-of-" in n]
    index = next((n for n in names if n.endswith(".index.json")), None)
    if not shards:
        return True
    try:
        data = read_start(folder / str(index), _LARGEST_INDEX)
        wanted = set(json.loads(data)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return wanted <= set(names)
