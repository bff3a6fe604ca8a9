"""The Hub's description of a repository: its commit and its files, validated."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from turbopilot.base.errors import HubUnreachable
from turbopilot.hub.client import retried
from turbopilot.hub.response import opened

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
_ANSWER_WITHIN = 60.0  # seconds; the client itself has no timeout for listings
_MOST_BYTES = 16 << 20  # json.loads needs up to 25 times as much memory
_MOST_FILES = 100_000  # https://huggingface.co/docs/hub/storage-limits recommends fewer


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


def read_repository(repo: str, revision: str | None) -> tuple[str, dict[str, RemoteFile]]:
    """Return a revision's commit, and name → file. Sends a request to the Hub.

    Raises:
        HubUnreachable: the response is not a valid description of a repository, or too large.
    """
    from huggingface_hub import constants

    url = f"{constants.ENDPOINT}/api/models/{repo}"
    if revision:
        url += f"/revision/{quote(revision, safe='')}"
    data = retried(lambda: _body(url))
    try:
        return _parsed(json.loads(data), revision)
    except (ValueError, RecursionError) as e:
        what = "too deeply nested" if isinstance(e, RecursionError) else f"{e!s:.100}"
        raise HubUnreachable(
            f"{repo}: the response is not from a Hugging Face Hub ({what})",
            hint="check HF_ENDPOINT, and whether the network requires a login first",
        ) from e


def _body(url: str) -> bytes:
    data = bytearray()
    accepted = {"Accept-Encoding": "gzip"}
    with opened(url, headers=accepted, timeout=_ANSWER_WITHIN, blobs=True) as response:
        for piece in response.iter_bytes():
            data += piece
            if len(data) > _MOST_BYTES:
                raise HubUnreachable(
                    f"{url}: the list of files is larger than {_MOST_BYTES >> 20} MiB",
                    hint="if HF_ENDPOINT names a mirror, try without it",
                )
    return bytes(data)


def _parsed(answer: Any, revision: str | None) -> tuple[str, dict[str, RemoteFile]]:
    if not isinstance(answer, dict):
        raise ValueError("not a JSON object")
    commit, listed = answer.get("sha"), answer.get("siblings") or []
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise ValueError("its sha is not a commit")
    if COMMIT.fullmatch(revision or "") and commit != revision:
        raise ValueError(f"it describes commit {commit}")
    if not isinstance(listed, list) or len(listed) > _MOST_FILES:
        raise ValueError(f"its siblings are not a list of at most {_MOST_FILES:,} files")
    files = [_remote_file(i, entry) for i, entry in enumerate(listed)]
    return commit, {f.name: f for f in files}


def _remote_file(i: int, entry: Any) -> RemoteFile:
    """Return the file that the item `i` of the siblings describes."""
    large = entry.get("lfs") or {} if isinstance(entry, dict) else None
    if not isinstance(large, dict):
        raise ValueError(f"siblings[{i}] does not describe a file")
    name, size = entry.get("rfilename"), entry.get("size") or 0
    if not isinstance(name, str):
        raise ValueError(f"siblings[{i}].rfilename is not a text")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 63:
        raise ValueError(f"siblings[{i}].size is not a number of bytes")
    sha256, blob = large.get("sha256") or "", entry.get("blobId") or ""
    if not isinstance(sha256, str) or (large and not SHA256.fullmatch(sha256)):
        raise ValueError(f"siblings[{i}].lfs.sha256 is not a SHA-256")
    if not isinstance(blob, str) or (blob and not COMMIT.fullmatch(blob)):
        raise ValueError(f"siblings[{i}].blobId is not a SHA-1")
    return RemoteFile(name, size, sha256, "" if large else blob)
