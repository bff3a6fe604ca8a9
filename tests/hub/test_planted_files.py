"""Tests of links, pipes and folders planted in the cache or a target folder: nothing outside is written or opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hub_case import REPOS, WEIGHTS, InProcess, contents, run
from tests.support.hub_server import COMMIT
from turbopilot.hub import NOTE, HubRequest, cached

SMALL = REPOS["me/small"]
DIGEST = hashlib.sha256(SMALL[WEIGHTS]).hexdigest()
INTO = pytest.mark.parametrize("into", ["folder", "cache"])
SECRET = b"mine, and nobody else's"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(SECRET)
    return path


def symlink(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def hard_link(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("new"))


def device(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


PLANTS = pytest.mark.parametrize("plant", [symlink, hard_link, pipe, dangling, device])
Plant = Callable[[Path, Path], None]


def arguments(here: InProcess, into: str) -> list[str]:
    return ["--to", str(here.folder)] if into == "folder" else []


@PLANTS
@INTO
def test_planted_partial_file_is_replaced(
    here: InProcess, victim: Path, into: str, plant: Plant
) -> None:
    folder = here.folder if into == "folder" else here.cache / "models--me--small" / "blobs"
    folder.mkdir(parents=True)
    name = WEIGHTS if into == "folder" else DIGEST
    plant(folder / f"{name}.{DIGEST[:8]}.part", victim)
    code, out, err = run("me/small", *arguments(here, into))
    assert code == 0, err
    assert contents(Path(out.strip())) == SMALL
    assert victim.read_bytes() == SECRET
    assert not victim.with_name("new").exists()


@PLANTS
def test_planted_file_is_replaced(here: InProcess, victim: Path, plant: Plant) -> None:
    here.folder.mkdir()
    for name in [*SMALL, NOTE]:
        plant(here.folder / name, victim)
    code, _, err = run("me/small", "--to", str(here.folder))
    assert code == 0, err
    assert contents(here.folder) == SMALL
    assert not any(p.is_symlink() for p in here.folder.iterdir())
    assert victim.read_bytes() == SECRET
    assert not victim.with_name("new").exists()


@PLANTS
def test_planted_branch_is_replaced(here: InProcess, victim: Path, plant: Plant) -> None:
    refs = here.cache / "models--me--small" / "refs"
    refs.mkdir(parents=True)
    plant(refs / "main", victim)
    assert cached(HubRequest("me/small")) is None
    code, _, err = run("me/small")
    assert code == 0, err
    assert (refs / "main").read_text() == COMMIT
    assert victim.read_bytes() == SECRET
    assert not victim.with_name("new").exists()


@pytest.mark.parametrize("commit", ["..", ".", "../../elsewhere", "/etc", "main", "\0", "x" * 5000])
def test_branch_with_an_odd_commit_is_ignored(here: InProcess, commit: str) -> None:
    assert run("me/small")[0] == 0
    (here.cache / "models--me--small" / "refs" / "main").write_text(commit)
    assert cached(HubRequest("me/small")) is None


@PLANTS
def test_planted_cache_entry_is_not_copied(here: InProcess, victim: Path, plant: Plant) -> None:
    blobs = here.cache / "models--me--small" / "blobs"
    blobs.mkdir(parents=True)
    plant(blobs / DIGEST, victim)
    assert run("me/small", "--to", str(here.folder))[0] == 0
    assert contents(here.folder) == SMALL


@pytest.mark.parametrize("plant", [pipe, dangling, device])
def test_unreadable_cache_entry_is_replaced(here: InProcess, victim: Path, plant: Plant) -> None:
    blobs = here.cache / "models--me--small" / "blobs"
    blobs.mkdir(parents=True)
    plant(blobs / DIGEST, victim)
    code, out, err = run("me/small")
    assert code == 0, err
    assert contents(Path(out.strip())) == SMALL
    assert not victim.with_name("new").exists()


@pytest.mark.parametrize("plant", [symlink, hard_link])
def test_cache_entry_with_other_content_is_not_linked(
    here: InProcess, victim: Path, plant: Plant
) -> None:
    blobs = here.cache / "models--me--small" / "blobs"
    blobs.mkdir(parents=True)
    plant(blobs / DIGEST, victim)
    code, out, err = run("me/small")
    assert (code, out) == (3, "")
    assert f"{blobs / DIGEST}: is not the file that the Hub lists" in err
    assert f"rm {blobs / DIGEST}" in err, "not the file behind the link"
    assert not (blobs.parent / "snapshots" / COMMIT / WEIGHTS).exists()
    assert victim.read_bytes() == SECRET


@pytest.mark.parametrize(
    ("into", "below", "model"),
    [
        ("folder", ".cache", "me/small"),
        ("folder", ".cache/huggingface", "me/small"),
        ("folder", "Q8_0", "me/ggufs:Q8_0"),
        ("cache", "models--me--small/blobs", "me/small"),
        ("cache", "models--me--small/snapshots", "me/small"),
        ("cache", f"models--me--small/snapshots/{COMMIT}", "me/small"),
        ("cache", "models--me--small/refs", "me/small"),
        ("cache", ".locks", "me/small"),
    ],
)
def test_linked_folder_is_rejected(
    here: InProcess, tmp_path: Path, into: str, below: str, model: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = (here.folder if into == "folder" else here.cache) / below
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    code, out, err = run(model, *arguments(here, into))
    assert (code, out) == (3, "")
    assert f"{link}: is a link" in err
    assert "hint: " in err
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("which", ["cache", "repository", "folder"])
def test_linked_root_is_the_users_choice(here: InProcess, tmp_path: Path, which: str) -> None:
    """Follow links to other disks: of the whole cache, of one repository in it, or of the target folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    repository = here.cache / "models--me--small"
    link = {"cache": here.cache, "repository": repository, "folder": here.folder}[which]
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    code, out, err = run("me/small", *arguments(here, which))
    assert code == 0, err
    assert contents(Path(out.strip())) == SMALL
    assert any(elsewhere.iterdir())


@PLANTS
@INTO
def test_planted_lock_is_replaced(here: InProcess, victim: Path, into: str, plant: Plant) -> None:
    lock = here.folder / ".cache" / "huggingface" / "turbopilot.lock"
    if into == "cache":
        lock = here.cache / ".locks" / "models--me--small" / f"{DIGEST}.lock"
    lock.parent.mkdir(parents=True)
    plant(lock, victim)
    code, out, err = run("me/small", *arguments(here, into))
    assert code == 0, err
    assert contents(Path(out.strip())) == SMALL
    assert victim.read_bytes() == SECRET
    assert not victim.with_name("new").exists()
