"""Fault injection: a download whose i-th call to the file system fails leaves nothing half-written and is resumed."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
from pathlib import Path

import pytest

from tests.support.failing_calls import FailingCalls, Killed
from tests.support.hub_case import InProcess, contents
from tests.support.hub_server import COMMIT
from turbopilot.base.errors import TurboPilotError
from turbopilot.hub import NOTE, HubRequest, Listing, cached, fetch, look_up

FILES = {"tokenizer.json": b"[]", "config.json": b"{}", "model.safetensors": bytes(range(200))}
REPO = "me/tiny"
FAULTS = {"kill": 0, "error": errno.EIO, "full disk": errno.ENOSPC}


def check_nothing_is_torn(here: InProcess, into: str) -> None:
    """Check that each final name has its complete content or does not exist."""
    if into == "folder":
        found = {k: v for k, v in contents(here.folder).items() if not k.endswith(".part")}
        assert found.items() <= FILES.items()
        if (here.folder / NOTE).exists():
            note = json.loads((here.folder / NOTE).read_text())
            assert (note, found) == ({"repository": REPO, "revision": COMMIT}, FILES)
        return
    root = here.cache / "models--me--tiny"
    for blob in (root / "blobs").glob("*"):
        data = blob.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        assert blob.suffix == ".part" or blob.name in (git, hashlib.sha256(data).hexdigest())
    for path in (root / "snapshots").rglob("*.*"):
        assert path.read_bytes() == FILES[path.name], "no link without its blob"
    branches = [p for p in (root / "refs").glob("*") if p.suffix != ".part"]
    assert all(p.read_text() == COMMIT for p in branches)
    if branches:
        assert contents(root / "snapshots" / COMMIT) == FILES


def attempt(listing: Listing, to: Path | None) -> TurboPilotError | Killed | None:
    """Download, and return the error."""
    try:
        fetch(listing, to)
    except (TurboPilotError, Killed) as e:
        return e
    return None


@pytest.mark.parametrize(
    ("into", "fault"),
    [
        ("folder", "kill"), ("folder", "error"), ("cache", "kill"), ("cache", "full disk"),
        ("cache without links", "kill"), ("cache without links", "error"),
    ],
)  # fmt: skip
def test_any_failing_call_leaves_whole_files_and_is_resumed(
    here: InProcess, into: str, fault: str
) -> None:
    without = into == "cache without links"
    here.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", without)
    here.hub.repos[REPO] = FILES
    listing = look_up(HubRequest(REPO))
    root = here.cache.parent
    disk = FailingCalls(root, here.monkeypatch)
    failed = 0
    for i in itertools.count():
        here.cache, here.folder = root / f"cache{i}", root / f"to{i}"
        here.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here.cache))
        to = here.folder if into == "folder" else None
        disk.restart(fail_at=i, error=FAULTS[fault])
        error = attempt(listing, to)
        if len(disk.calls) <= i:
            break
        what = f"{disk.calls[i]} (call {i})"
        disk.restart(fail_at=-1)
        check_nothing_is_torn(here, into)
        if isinstance(error, TurboPilotError):
            assert error.hint
            where = str(root) in error.message or "disk is full" in error.message
            assert where, f"{what} failed: {error.message}"
        failed += error is not None
        path = fetch(listing, to)
        assert contents(path) == FILES, f"not resumed after {what}"
        check_nothing_is_torn(here, into)
        parts = list((to or here.cache).rglob("*.part"))
        assert not parts, f"leftovers of {what}"
        if not to:
            assert cached(HubRequest(REPO)) == path
    assert error is None, "without a fault"
    assert failed > 25, "most calls are needed"
