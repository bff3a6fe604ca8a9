"""Tests of a hostile or broken server: it cannot choose paths, exceed limits or cause a traceback."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub_case import (
    OTHER_COMMIT,
    REPOS,
    WEIGHTS,
    InProcess,
    contents,
    run,
)
from tests.support.hub_server import COMMIT, OddResponse
from turbopilot.base.errors import DownloadError, HubUnreachable, InvalidInput, NotEnoughDisk
from turbopilot.hub import HubRequest, Listing, RemoteFile, cached, fetch, look_up
from turbopilot.hub.choice import gguf_models

NEW_COMMIT = "f00d" * 10
SMALL = REPOS["me/small"]
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
    here.hub.odd = listing({"sha": COMMIT, "siblings": [{"rfilename": "config.json"}]})
    with pytest.raises(HubUnreachable, match=f"describes commit {COMMIT}"):
        look_up(HubRequest("me/small", OTHER_COMMIT))


@pytest.mark.parametrize(
    "name", ["../evil.gguf", "/evil.gguf", "a/../../evil.gguf", r"..\evil.gguf", "C:evil.gguf"]
)
def test_file_name_cannot_leave_the_folder(here: InProcess, name: str) -> None:
    here.hub.odd = listing({"sha": COMMIT, "siblings": [{"rfilename": name}]})
    with pytest.raises(InvalidInput, match="not a path of a file"):
        look_up(HubRequest("me/small", file=name))
    with pytest.raises(DownloadError, match="has no weights"):
        look_up(HubRequest("me/small"))


def test_unusual_file_name_is_downloaded(here: InProcess) -> None:
    here.hub.repos["me/small"]["my model (1).gguf"] = b"GGUF"
    code, out, err = run("me/small/my model (1).gguf")
    assert code == 0, err
    assert Path(out.strip()).read_bytes() == b"GGUF"


def listing(answer: Any) -> Any:
    """Return a server's `odd` that sends `answer` as every listing."""
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    def odd(_: str, path: str) -> OddResponse | None:
        return (200, {"Content-Type": "application/json"}, [data]) if "/api/" in path else None

    return odd


def sibling(**fields: Any) -> dict[str, Any]:
    return {"sha": COMMIT, "siblings": [{"rfilename": "config.json", **fields}]}


ODD_LISTINGS: list[Any] = [
    5, None, [], "text", b"", b"<html>", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"{" + b'"sha": 1' * 9,
    b'{"sha": ' + b"9" * 5000 + b"}", {}, {"sha": 5}, {"sha": None}, {"sha": "main"}, {"sha": "../" * 13 + "a"},
    {"sha": COMMIT.upper(), "siblings": []}, {"sha": COMMIT, "siblings": 5}, {"sha": COMMIT, "siblings": "text"},
    {"sha": COMMIT, "siblings": {"rfilename": "config.json"}}, {"sha": COMMIT, "siblings": [5]},
    {"sha": COMMIT, "siblings": [None]}, {"sha": COMMIT, "siblings": [[]]}, {"sha": COMMIT, "siblings": [{}]},
    sibling(rfilename=5), sibling(rfilename=None), sibling(rfilename=["config.json"]),
    sibling(size="12"), sibling(size=-1), sibling(size=1.5), sibling(size=True), sibling(size=2**63), sibling(size=[1]),
    sibling(blobId=5), sibling(blobId="../evil"), sibling(blobId=["a"]), sibling(lfs="text"), sibling(lfs=[1]),
    sibling(lfs={"size": 1}), sibling(lfs={"sha256": 5}), sibling(lfs={"sha256": "/evil"}),
    sibling(lfs={"sha256": None}),
]  # fmt: skip


@pytest.mark.parametrize("answer", ODD_LISTINGS, ids=lambda a: repr(a)[:60])
def test_odd_listing_is_an_error_of_the_hub(here: InProcess, answer: Any) -> None:
    here.hub.odd = listing(answer)
    with pytest.raises(HubUnreachable, match="the response is not from a Hugging Face Hub") as e:
        look_up(HubRequest("me/small"))
    assert "check HF_ENDPOINT" in e.value.hint
    assert len(e.value.message) < 200


def test_odd_listing_ends_with_exit_code_3(here: InProcess) -> None:
    here.hub.odd = listing({"sha": 5})
    code, out, err = run("me/small")
    assert (code, out) == (3, "")
    assert "(its sha is not a commit)" in err
    assert not here.cache.exists()


@pytest.mark.parametrize("metadata", [True, False])
def test_only_the_repository_is_requested(here: InProcess, metadata: bool) -> None:
    """Avoid the client's own request for a list of AI agents: a malformed list breaks it for a day."""
    asked: set[str] = set()
    here.hub.metadata, here.hub.odd = metadata, lambda _, path: asked.add(path)
    here.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", False)
    here.monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", None)
    agents = here.cache.parent / "agents"
    here.monkeypatch.setattr("huggingface_hub.constants.AGENT_HARNESSES_PATH", str(agents))
    assert run("me/small")[0] == 0
    resolved = {p for p in asked if p.startswith(("/me/small/resolve/", "/storage/me/small/"))}
    assert asked - resolved == {"/api/models/me/small"}
    assert not agents.exists()


def test_unusual_but_valid_listing_is_accepted(here: InProcess) -> None:
    files = [
        {"rfilename": name, "size": None, "lfs": None, "blobId": None, "new": {"field": 1}}
        for name in [*SMALL, "bilder/Übersicht (1).png", ".gitattributes"]
    ]
    here.hub.odd = listing({"sha": COMMIT, "siblings": files})
    code, out, err = run("me/small")
    assert code == 0, err
    assert contents(Path(out.strip())) == SMALL


def test_listing_with_too_many_parts_is_rejected() -> None:
    names = [f"m{i}-00001-of-00200.gguf" for i in range(501)]
    with pytest.raises(DownloadError, match="more than 100,000 parts"):
        gguf_models(names)


def test_menu_of_many_models_is_cut_off(here: InProcess) -> None:
    files = [{"rfilename": f"m{i}.gguf", "size": i} for i in range(5000)]
    here.hub.odd = listing({"sha": COMMIT, "siblings": files})
    with pytest.raises(DownloadError, match="several GGUF files") as e:
        look_up(HubRequest("me/small"))
    assert len(e.value.message.splitlines()) == 52


ENDLESS = itertools.repeat(b" " * 65536)


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (200, {}, "list of files is larger than 1 MiB"),
        (200, {"Content-Encoding": "br"}, "unexpected response"),
        (200, {"Content-Encoding": "gzip, gzip"}, "unexpected response"),
        (206, {}, "list of files is larger than 1 MiB"),
        (302, {"Location": "/api/models/me/again"}, "more than 10 redirects"),
        (302, {"Location": "file:///etc/passwd"}, "did not answer"),
        (302, {"Location": "http://[::1"}, ""),
        (302, {}, "unexpected response"),
        (404, {}, "did not answer"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no such repository"),
        (403, {}, "denied access"),
        (400, {}, "did not answer"),
        (501, {}, "did not answer"),
    ],
)  # fmt: skip
def test_endless_response_is_cut_off(
    here: InProcess, status: int, headers: dict[str, str], words: str
) -> None:
    here.monkeypatch.setattr("turbopilot.hub.repository._MOST_BYTES", 1 << 20)
    here.hub.odd = lambda *_: (status, headers, ENDLESS)
    code, out, err = run("me/small")
    assert (code, out) == (3, ""), err
    assert words in err


@pytest.mark.parametrize(
    "body", [b"[]", b"5", b"null", b'{"error": 5}', b'{"errors": 5}', b'{"errors": [5]}', b"[" * 100_000, b"\xff"]
)  # fmt: skip
@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_odd_body_of_an_error_is_ignored(here: InProcess, status: int, body: bytes) -> None:
    here.hub.odd = lambda *_: (status, {"Content-Type": "application/json"}, [body])
    code, _, err = run("me/small")
    assert code == 3, err
    assert "error: me/small: " in err


@pytest.mark.parametrize(
    "after",
    [
        "²", "-1", "9" * 400, "Fri, 31 Dec 9999 23:59:59 +999999", " ", "Mon, 01 Jan " + "9" * 20 + " 00:00:00 GMT",
    ],
)  # fmt: skip
def test_odd_retry_delay_is_ignored(here: InProcess, after: str) -> None:
    here.hub.odd = lambda *_: (503, {"Retry-After": after}, [])
    assert run("me/small")[0] == 3
    assert sum(here.waits) <= 5 * 300


def body_of(name: str, headers: dict[str, str], body: Any) -> Any:
    """Return a server's `odd` for GET requests of one file."""

    def odd(method: str, path: str) -> OddResponse | None:
        return (200, headers, body) if method == "GET" and path.endswith(name) else None

    return odd


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
