"""Fake Hugging Face Hub on loopback, with the routes that the real `huggingface_hub` client uses.

The server sends small files directly. As on the Hub, large ones (Git LFS) redirect to a storage address on another
host and have their SHA-256 as ETag. `Hub.bodies` records the downloads for the tests.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import unquote, urlsplit

LFS: Final = (".safetensors", ".bin", ".gguf")
COMMIT: Final = "c0ffee" + "0" * 34
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
_TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/(.+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_STORAGE = re.compile(r"/storage/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)")


Refusal = tuple[int, str]  # an HTTP status and the Hub's X-Error-Code, "" for none
OddResponse = tuple[
    int, dict[str, str], Iterable[bytes]
]  # status, headers and body, sent as they are
BAD_TOKEN: Final = "Invalid credentials in Authorization header"


@dataclass
class Hub:
    """Contents of the server, its faults and the requests that it has seen.

    Attributes:
        repos: owner/name → files at `COMMIT`, which is the branch main.
        errors: owner/name → refusal of the whole repository.
        refuses: "head" (HEAD requests) or a file's name (its body) → refusal.
        busy: "api", "head" or a file's name (its body) → first responses, as (status, Retry-After or "").
        tokens: owner/name of a gated repository → token that its files need.
        branches: owner/name → branch → (commit, files).
        cut_once: file name → bytes after which the connection breaks, once.
        down_after: file name → number of downloads of its body before the server responds with 500.
        stall_once: file name → bytes after which the server sets `stalled`, waits for `go_on` and hangs up, once.
        dies_after: file name → bytes after which the whole server stops.
        corrupt: names of files that are sent with one changed byte.
        ranges: whether range requests are supported; if not, the whole file is sent.
        page: if not empty, the response to every request, like the login page of a hotel's network.
        metadata: whether a listing has sizes and checksums.
        etag: if not empty, the ETag of all files.
        odd: called with the method and path of a request; its result, if not None, is the response.
        bodies: (file name, first byte) of each download, in order.
        tokens_seen: "api", "file" or "storage" → tokens that were sent to addresses of this kind.
        url: value for HF_ENDPOINT.
        die: stops the server, so that further connections are refused.
    """

    repos: dict[str, dict[str, bytes]]
    errors: Mapping[str, Refusal] = field(default_factory=dict)
    refuses: dict[str, Refusal] = field(default_factory=dict)
    busy: dict[str, list[Refusal]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    branches: dict[str, dict[str, tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    cut_once: dict[str, int] = field(default_factory=dict)
    down_after: dict[str, int] = field(default_factory=dict)
    stall_once: dict[str, int] = field(default_factory=dict)
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    dies_after: dict[str, int] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    ranges: bool = True
    metadata: bool = True
    page: bytes = b""
    etag: str = ""
    odd: Callable[[str, str], OddResponse | None] = lambda *_: None
    bodies: list[tuple[str, int]] = field(default_factory=list)
    tokens_seen: dict[str, set[str]] = field(default_factory=dict)
    url: str = ""
    die: Callable[[], None] = lambda: None

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | Refusal:
        """Return the commit and files of a repository at a branch or commit, or the refusal."""
        if repo in self.errors:
            return self.errors[repo]
        if repo not in self.repos:
            return 404, "RepoNotFound"
        if revision in ("main", COMMIT):
            return COMMIT, self.repos[repo]
        for branch, (commit, files) in self.branches.get(repo, {}).items():
            if revision in (branch, commit):
                return commit, files
        return 404, "RevisionNotFound"


@contextmanager
def playing(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` on a free port of 127.0.0.1."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"

        def die() -> None:
            server.shutdown()
            server.socket.close()

        hub.die = die
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.go_on.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client hangs up on bodies that it does not want
            super().handle()

    def do_GET(self) -> None:
        self._route(body=True)

    def do_HEAD(self) -> None:
        self._route(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _route(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if odd := self.hub.odd(self.command, path):
            self._send_odd(*odd)
        elif self.hub.page:
            self._send(200, self.hub.page, {"Content-Type": "text/html"})
        elif match := _TREE.fullmatch(path):  # requested by `hf download`
            self._answer_api(match[1], match[2], tree=True)
        elif match := _API.fullmatch(path):
            if not self._is_busy("api"):
                self._answer_api(match[1], match[2] or "main")
        elif match := _FILE.fullmatch(path):
            if not self._is_busy(match[3] if body else "head") and not self._lacks_token(match[1]):
                self._answer_file(match[1], match[2], match[3], body=body, stored=False)
        elif match := _STORAGE.fullmatch(path):
            self._token("storage")
            self._answer_file(match[1], match[2], match[3], body=body, stored=True)
        else:
            self._refuse((404, ""))

    def _token(self, kind: str) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.tokens_seen.setdefault(kind, set()).add(token)
        return token

    def _is_busy(self, kind: str) -> bool:
        if not (answers := self.hub.busy.get(kind)):
            return False
        status, after = answers.pop(0)
        self._send(status, b"", {"Retry-After": after} if after else {})
        return True

    def _lacks_token(self, repo: str) -> bool:
        """Send 401 for a missing or unknown token, like the Hub, and return whether it was sent."""
        token, wanted = self._token("file"), self.hub.tokens.get(repo)
        if wanted is None or token == wanted:
            return False
        self._send(
            401, b"", {"X-Error-Message": BAD_TOKEN} if token else {"X-Error-Code": "GatedRepo"}
        )
        return True

    def _answer_api(self, repo: str, revision: str, *, tree: bool = False) -> None:
        commit, files = self.hub.find(repo, revision)
        if not isinstance(files, dict):
            return self._refuse((int(commit), files))
        listed = [_listed(name, data, tree=tree) for name, data in files.items()]
        if not tree and not self.hub.metadata:
            listed = [{"rfilename": name} for name in files]
        model = {"id": repo, "sha": commit, "private": False, "siblings": listed}
        answer = json.dumps(listed if tree else model).encode()
        return self._send(200, answer, {"Content-Type": "application/json"})

    def _answer_file(
        self, repo: str, revision: str, name: str, *, body: bool, stored: bool
    ) -> None:
        if refusal := self.hub.refuses.get(name if body else "head"):
            return self._refuse(refusal)
        sent = [sent for sent, _ in self.hub.bodies].count(name)
        if body and sent >= self.hub.down_after.get(name, sent + 1):
            return self._refuse((500, ""))
        commit, files = self.hub.find(repo, revision)
        if not isinstance(files, dict):
            return self._refuse((int(commit), files))
        if name not in files:
            return self._refuse((404, "EntryNotFound"))
        data = files[name]
        etag = self.hub.etag or f'"{_etag(name, data)}"'
        if name.endswith(LFS) and not stored:
            where = (
                f"{self.hub.url.replace('127.0.0.1', 'localhost')}/storage/{repo}/{commit}/{name}"
            )
            linked = {"X-Linked-Etag": etag, "X-Linked-Size": str(len(data))}
            return self._send(302, b"", {"X-Repo-Commit": str(commit), "Location": where, **linked})
        headers = {"X-Repo-Commit": str(commit), "ETag": etag, "Accept-Ranges": "bytes"}
        if name in self.hub.corrupt:
            data = bytes([data[0] ^ 1]) + data[1:]
        status, start = 200, 0
        asked = self.headers.get("Range", "") if self.hub.ranges else ""
        if wanted := re.fullmatch(r"bytes=(\d+)-", asked):
            status, start = 206, int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut, stall = None, False
        if body:
            self.hub.bodies.append((name, start))
            cut = self.hub.cut_once.pop(name, None)
            if name in self.hub.stall_once:
                cut, stall = self.hub.stall_once.pop(name), True
            if name in self.hub.dies_after:
                cut = self.hub.dies_after.pop(name)
                self.hub.die()
        return self._send(status, data[start:], headers, cut=cut, stall=stall)

    def _refuse(self, refusal: Refusal) -> None:
        status, code = refusal
        self._send(status, b"", {"X-Error-Code": code} if code else {})

    def _send_odd(self, status: int, headers: dict[str, str], body: Iterable[bytes]) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):  # the client hangs up on an endless body
                for piece in body:
                    self.wfile.write(piece)

    def _send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str],
        *,
        cut: int | None = None,
        stall: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut])
        if stall:
            self.hub.stalled.set()
            self.hub.go_on.wait()
        if cut is not None:
            self.close_connection = True


def _etag(name: str, data: bytes) -> str:
    """Return the ETag of the Hub: SHA-256 for files in LFS, Git's blob id for the others."""
    if name.endswith(LFS):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _listed(name: str, data: bytes, *, tree: bool) -> dict[str, Any]:
    """Return the entry of a file in a model's "siblings" or in a tree listing."""
    id_name, sha_name = ("oid", "oid") if tree else ("blobId", "sha256")
    entry: dict[str, Any] = {"type": "file", "path": name} if tree else {"rfilename": name}
    entry |= {"size": len(data), id_name: _etag("", data)}
    if name.endswith(LFS):
        entry["lfs"] = {sha_name: _etag(name, data), "size": len(data), "pointerSize": 133}
    return entry
