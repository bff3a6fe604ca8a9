"""Look-up of files in the Hub's cache on this machine, without requests.

Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import json
from pathlib import Path

from turbopilot.base.atomic import replacing
from turbopilot.base.errors import ModelNotFound
from turbopilot.hub.choice import TOKENIZERS, has_weights
from turbopilot.hub.listing import RemoteFile, check_wanted, choose
from turbopilot.hub.names import HubRequest


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids requests to the Hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def repo_cache(repo: str) -> Path:
    """Return the folder of a repository in the Hub's cache; the folder may not exist."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"))


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
    """Store the commit of a branch or tag in the cache, as the client does."""
    if revision == commit:
        return
    note = repo_cache(repo) / "refs" / revision
    note.parent.mkdir(parents=True, exist_ok=True)
    with replacing(note) as part:
        part.write_text(commit)


def _snapshot(repo: str, revision: str) -> Path | None:
    root = repo_cache(repo)
    try:
        commit = (root / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        commit = revision
    folder = root / "snapshots" / commit
    return folder if folder.parent == root / "snapshots" and folder.is_dir() else None


def _all_shards(folder: Path, names: list[str]) -> bool:
    """Return whether all files of the index are present; a checkpoint with a single weight file has no index."""
    shards = [n for n in names if "-of-" in n]
    index = next((n for n in names if n.endswith(".index.json")), None)
    if not shards:
        return True
    try:
        wanted = set(json.loads((folder / str(index)).read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return wanted <= set(names)
