"""What is in the hub's own cache already, without asking anybody.

The layout is documented: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import json
from pathlib import Path

from turbopilot.base.atomic import replacing
from turbopilot.base.errors import ModelNotFound
from turbopilot.hub.choice import TOKENIZERS, has_weights
from turbopilot.hub.listing import RemoteFile, check_choice, choose


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def repo_cache(repo: str) -> Path:
    """The folder of a repository in the hub's cache; it need not exist."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"))


def cached(
    repo: str, revision: str | None = None, *, quant: str = "", file: str = "", only: str = ""
) -> Path | None:
    """What `fetch` would return for the same wish, where all of it is in the hub's cache; else None.

    A checkpoint is there when its config, a tokenizer and every file of its weights are, by its index where
    it has one. Who put them there does not matter.

    Args:
        repo: owner/name.
        revision: a branch or tag, at the commit that it was when it was last fetched, or a commit.
        quant: as for `look_up`.
        file: as for `look_up`.
        only: as for `look_up`.

    Raises:
        InvalidInput: as `look_up`.
    """
    check_choice(repo, quant=quant, file=file, only=only)
    folder = _snapshot(repo, revision or "main")
    if folder is None:
        return None
    paths = [p for p in folder.rglob("*") if p.is_file()]
    there = {
        (name := p.relative_to(folder).as_posix()): RemoteFile(name, p.stat().st_size)
        for p in paths
    }
    try:
        names = choose(repo, there, quant=quant, file=file, only=only)
    except ModelNotFound:
        return None
    if file or names[0].lower().endswith(".gguf"):
        return folder / names[0]
    whole = only or (has_weights(names) and _all_shards(folder, names))
    return folder if whole and "config.json" in names and set(TOKENIZERS) & set(names) else None


def remember(repo: str, revision: str, commit: str) -> None:
    """Note in the cache, as the client does, which commit a branch or tag is; for others to find offline."""
    if revision == commit:
        return
    note = repo_cache(repo) / "refs" / revision
    note.parent.mkdir(parents=True, exist_ok=True)
    with replacing(note, shared=True) as part:
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
    """Whether each file is there that an index names; a checkpoint of one file has none."""
    shards = [n for n in names if "-of-" in n]
    index = next((n for n in names if n.endswith(".index.json")), None)
    if not shards:
        return True
    try:
        wanted = set(json.loads((folder / str(index)).read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return wanted <= set(names)
