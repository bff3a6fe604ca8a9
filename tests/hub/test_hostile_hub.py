"""Tests of a hostile or broken server: it cannot choose paths, exceed limits or cause a traceback."""

from __future__ import annotations

import errno
import hashlib
import itertools
from pathlib import Path

import pytest

from tests.support.hub_case import (
    OTHER_COMMIT,
    REPOS,
    WEIGHTS,
    InProcess,
    contents,
    odd_listing,
    run,
)
from tests.support.hub_server import COMMIT
from turbopilot.base.errors import DownloadError, HubUnreachable, InvalidInput, NotEnoughDisk
from turbopilot.hub import HubRequest, Listing, RemoteFile, cached, fetch, look_up

NEW_COMMIT = "f00d" * 10
SMALL = REPOS["me/small"]
ENDLESS = itertools.repeat(b" " * 65536)
INTO = pytest.mark.parametrize("into", ["folder", "cache"])


def arguments(here: InProcess, into: str) -> list[str]:
    return ["--to", str(here.folder)] if into == "folder" else []


def strays(here: InProcess) -> list[Path]:
    """Return what is outside the cache and the folder, or has an unknown place in the cache."""
    root, repo = here.cache.parent, here.cache / "models--me--small"
    known = (repo / "blobs", repo / "refs", repo / "snapshots", here.cache / ".locks", here.folder)
    return [
        p
        for p in root.rglob("*")
        if p.name not in ("CACHEDIR.TAG", "cache", repo.name)
        and not any(p.is_relative_to(k) for k in known)
    ]


def is_digest_name(path: Path) -> bool:
    return len(path.name) in (40, 64) and set(path.name) <= set("0123456789abcdef")


@INTO
@pytest.mark.parametrize("metadata", [True, False], ids=["listed", "unlisted"])
@pytest.mark.parametrize(
    "etag", ['"{root}/evil"', '"../../../evil"', 'W/"../evil"', r'"..\..\evil"', '"."', '""', "x" * 300]
)  # fmt: skip
def test_etag_never_becomes_a_path(here: InProcess, into: str, metadata: bool, etag: str) -> None:
    here.hub.etag, here.hub.metadata = etag.format(root=here.cache.parent), metadata
    code, out, err = run("me/small", *arguments(here, into))
    assert code == 0, err
    assert contents(Path(out.strip())) == SMALL
    assert strays(here) == []
    blobs = list((here.cache / "models--me--small" / "blobs").glob("*"))
    assert all(is_digest_name(p) for p in blobs)


REVISIONS = [
    "../../evil", "..", "/etc/evil", "a/../../../evil", "a//b", "/a", "a/", ".a", "a/.b", "a.lock", "a.lock/b", "a.",
    "a b", "a~1", "a^", "a:b", "a?", "a*", "a[b", r"a\b", "a@{1}", "@", "a\nb", "a\x7f", "a\udcff", "x" * 201,
]  # fmt: skip


@pytest.mark.parametrize("revision", REVISIONS)
def test_revision_that_git_rejects_is_rejected(here: InProcess, revision: str) -> None:
    for ask in (look_up, cached):
        with pytest.raises(InvalidInput, match="not a name of a revision"):
            ask(HubRequest("me/small", revision))
    assert not here.cache.exists()


def test_pasted_address_cannot_leave_the_cache(here: InProcess) -> None:
    here.hub.branches["me/small"]["../../../evil"] = (NEW_COMMIT, SMALL)
    code, _, err = run("https://huggingface.co/me/small/tree/..%2F..%2F..%2Fevil")
    assert code == 2, err
    assert strays(here) == []


@pytest.mark.parametrize(
    "revision", ["refs/pr/1", "v1.0", "feature/ü-1", "a.b/c@d", "-x", "c0ffee"]
)
def test_revision_that_git_accepts_is_found_again(here: InProcess, revision: str) -> None:
    here.hub.branches["me/small"][revision] = (NEW_COMMIT, SMALL)
    code, out, err = run("me/small", f"--revision={revision}")
    assert code == 0, err
    refs = here.cache / "models--me--small" / "refs"
    assert (refs / revision).read_text() == NEW_COMMIT
    assert cached(HubRequest("me/small", revision)) == Path(out.strip())


def test_answer_about_another_commit_is_rejected(here: InProcess) -> None:
    here.hub.odd = odd_listing({"sha": COMMIT, "siblings": [{"rfilename": "config.json"}]})
    with pytest.raises(HubUnreachable, match=f"describes commit {COMMIT}"):
        look_up(HubRequest("me/small", OTHER_COMMIT))


@pytest.mark.parametrize(
    "name", ["../evil.gguf", "/evil.gguf", "a/../../evil.gguf", r"..\evil.gguf", "C:evil.gguf"]
)
def test_file_name_cannot_leave_the_folder(here: InProcess, name: str) -> None:
    here.hub.odd = odd_listing({"sha": COMMIT, "siblings": [{"rfilename": name}]})
    with pytest.raises(InvalidInput, match="not a path of a file"):
        look_up(HubRequest("me/small", file=name))
    with pytest.raises(DownloadError, match="has no weights"):
        look_up(HubRequest("me/small"))


def test_unusual_file_name_is_downloaded(here: InProcess) -> None:
    here.hub.repos["me/small"]["my model (1).gguf"] = b"GGUF"
    code, out, err = run("me/small/my model (1).gguf")
    assert code == 0, err
    assert Path(out.strip()).read_bytes() == b"GGUF"


@INTO
def test_file_without_a_stated_size_is_limited(here: InProcess, into: str) -> None:
    here.hub.metadata, here.hub.etag = False, '"odd"'
    here.monkeypatch.setattr("turbopilot.hub.body._MOST_UNSTATED", 1 << 20)
    here.hub.odd = lambda method, path: (200, {}, ENDLESS) if path.endswith("config.json") else None
    code, out, err = run("me/small", *arguments(here, into))
    assert (code, out) == (3, ""), err
    assert "sent more than the 1,048,576 bytes" in err
    here.hub.odd = lambda *_: None
    code, out, err = run("me/small", *arguments(here, into))
    assert code == 0, err
    assert contents(Path(out.strip())) == SMALL
    assert not list(here.cache.parent.rglob("*.part"))


def test_stated_size_beyond_the_disk_is_rejected(here: InProcess) -> None:
    here.hub.odd = lambda *_: (200, {"Content-Length": str(10**17)}, [b"x"])
    listed = Listing("me/small", COMMIT, (RemoteFile("config.json", 0, blob="a" * 40),))
    with pytest.raises(NotEnoughDisk, match="are free"):
        fetch(listed, here.folder)


def test_unlisted_file_has_its_digest_as_name_in_the_cache(here: InProcess) -> None:
    here.hub.metadata = False
    assert run("me/small")[0] == 0
    blobs = here.cache / "models--me--small" / "blobs"
    assert {p.name for p in blobs.iterdir()} == {
        hashlib.sha256(d).hexdigest() for d in SMALL.values()
    }
    bodies = len(here.hub.bodies)
    assert run("me/small")[0] == 0
    assert len(here.hub.bodies) == bodies, "nothing is downloaded twice"


def test_unlisted_large_file_is_checked_against_its_etag(here: InProcess) -> None:
    here.hub.metadata = False
    here.hub.corrupt.add(WEIGHTS)
    code, out, err = run("me/small", "--to", str(here.folder))
    assert (code, out) == (3, "")
    assert f"{WEIGHTS} was damaged during the download" in err
    assert WEIGHTS not in contents(here.folder)


def test_unlisted_files_of_a_complete_folder_are_kept(here: InProcess) -> None:
    here.hub.metadata, here.hub.etag = False, '"odd"'
    assert run("me/small", "--to", str(here.folder))[0] == 0
    bodies = len(here.hub.bodies)
    assert run("me/small", "--to", str(here.folder))[0] == 0
    assert len(here.hub.bodies) == bodies
    (here.folder / "turbopilot-source.json").unlink()
    (here.folder / "config.json").write_bytes(b"mine")
    assert run("me/small", "--to", str(here.folder))[0] == 0
    assert contents(here.folder) == SMALL, "files of unknown origin are replaced"


def test_damaged_blob_is_not_linked(here: InProcess) -> None:
    digest = hashlib.sha256(SMALL[WEIGHTS]).hexdigest()
    blob = here.cache / "models--me--small" / "blobs" / digest
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"evil!!!")
    code, out, err = run("me/small")
    assert (code, out) == (3, "")
    assert f"rm {blob}" in err
    assert not (blob.parents[1] / "snapshots" / COMMIT / WEIGHTS).exists()


def test_link_to_a_missing_blob_is_replaced(here: InProcess) -> None:
    folder = Path(run("me/small")[1].strip())
    (folder / WEIGHTS).resolve().unlink()
    code, _, err = run("me/small")
    assert code == 0, err
    assert contents(folder) == SMALL


def layout(root: Path) -> dict[str, str]:
    """Return each entry's path and the target of a link, the content of a file, or "folder"."""
    found = {}
    for p in sorted(root.rglob("*")):
        what = (
            str(p.readlink())
            if p.is_symlink()
            else p.read_bytes().hex()
            if p.is_file()
            else "folder"
        )
        found[p.relative_to(root).as_posix()] = what
    return found


@pytest.mark.parametrize("links", ["links", "disabled", "impossible"])
def test_cache_has_the_layout_of_the_client(
    here: InProcess, tmp_path_factory: pytest.TempPathFactory, links: str
) -> None:
    from huggingface_hub import hf_hub_download

    def impossible(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    name = "Q8_0/tiny-Q8_0-00001-of-00002.gguf"
    if links != "links":
        here.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", True)
    theirs = tmp_path_factory.mktemp("theirs")
    for part in (name, name.replace("00001", "00002")):
        hf_hub_download("me/ggufs", part, cache_dir=theirs)
    if links == "impossible":
        here.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", False)
        here.monkeypatch.setattr("os.symlink", impossible)
    code, out, err = run("me/ggufs:Q8_0")
    assert code == 0, err
    assert Path(out.strip()).read_bytes() == b"GGUF8a"
    assert layout(here.cache) == layout(theirs)
