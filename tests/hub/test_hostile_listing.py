"""Tests of a hostile or broken server: odd listings and responses end with a clear error and are limited in size."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub_case import REPOS, InProcess, contents, odd_listing, run
from tests.support.hub_server import COMMIT
from turbopilot.base.errors import DownloadError, HubUnreachable
from turbopilot.hub import HubRequest, look_up
from turbopilot.hub.choice import gguf_models

SMALL = REPOS["me/small"]


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
    here.hub.odd = odd_listing(answer)
    with pytest.raises(HubUnreachable, match="the response is not from a Hugging Face Hub") as e:
        look_up(HubRequest("me/small"))
    assert "check HF_ENDPOINT" in e.value.hint
    assert len(e.value.message) < 200


def test_odd_listing_ends_with_exit_code_3(here: InProcess) -> None:
    here.hub.odd = odd_listing({"sha": 5})
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
    here.hub.odd = odd_listing({"sha": COMMIT, "siblings": files})
    code, out, err = run("me/small")
    assert code == 0, err
    assert contents(Path(out.strip())) == SMALL


def test_listing_with_too_many_parts_is_rejected() -> None:
    names = [f"m{i}-00001-of-00200.gguf" for i in range(501)]
    with pytest.raises(DownloadError, match="more than 100,000 parts"):
        gguf_models(names)


def test_menu_of_many_models_is_cut_off(here: InProcess) -> None:
    files = [{"rfilename": f"m{i}.gguf", "size": i} for i in range(5000)]
    here.hub.odd = odd_listing({"sha": COMMIT, "siblings": files})
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
