"""Serving of the page: the choice between page and text, headers, caching, compression, access."""

from __future__ import annotations

import gzip
import re
from importlib.resources import files

import pytest
from flask.testing import FlaskClient

from serve.http.start_lines import how_to_use
from serve.security_options import SecurityOptions
from tests.support.fakes import FakeDecoder
from tests.support.serving import MakeClient, connection, read_all, running

STATIC = files("serve.page").joinpath("static")
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
HTML = {"Accept": CHROME}
TYPES = {
    "page.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "index.html": "text/html; charset=utf-8",
    "licences.txt": "text/plain; charset=utf-8",
}
FILES = sorted(TYPES)


@pytest.fixture
def client(make_client: MakeClient) -> FlaskClient:
    return make_client()


def static(name: str) -> bytes:
    return STATIC.joinpath(name).read_bytes()


@pytest.mark.parametrize(
    "accept", [CHROME, "text/html", "text/html, */*;q=0.1", "text/*;q=0.5, text/html"]
)
def test_browser_gets_the_page(client: FlaskClient, accept: str) -> None:
    response = client.get("/", headers={"Accept": accept})
    assert response.data == static("index.html")
    assert response.content_type == "text/html; charset=utf-8"
    assert {"Accept", "Accept-Encoding", "Origin"} <= set(response.vary)


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "*/*",
        "text/plain",
        "application/json",
        "text/plain, text/html;q=0.9",
        "text/html;q=0",
        "x",
    ],
)
def test_program_gets_the_text(client: FlaskClient, accept: str | None) -> None:
    response = client.get("/", headers={"Accept": accept} if accept else {})
    assert response.text.startswith("Hello world\n\nTurboPilot serves fake ")
    assert response.mimetype == "text/plain"
    assert "Accept" in response.vary


@pytest.mark.parametrize("name", FILES)
def test_files_of_the_page_are_served(client: FlaskClient, name: str) -> None:
    response = client.get(f"/page/{name}")
    assert (response.status_code, response.data) == (200, static(name))
    assert response.content_type == TYPES[name]
    assert "Content-Encoding" not in response.headers


def test_every_file_of_the_package_has_a_type() -> None:
    assert sorted(f.name for f in STATIC.iterdir()) == FILES


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
def test_page_cannot_load_from_elsewhere_or_be_embedded(client: FlaskClient, path: str) -> None:
    headers = client.get(path, headers=HTML).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert policy.pop("frame-ancestors") == "'none'"
    assert policy.pop("base-uri") == "'none'"
    assert policy.pop("form-action") == "'none'"
    assert set(policy) == {"script-src", "style-src", "img-src", "connect-src"}
    assert set(policy.values()) == {"'self'"}
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_index_has_nothing_inline_and_names_only_served_files(client: FlaskClient) -> None:
    text = client.get("/", headers=HTML).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\bsrc=)", text)
    names = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(names) >= 3
    for name in names:
        assert client.get(name).status_code == 200, name


@pytest.mark.parametrize(
    "name",
    [
        "", "page.ts", "PAGE.JS", "../__init__.py", "../static/page.js", "%2e%2e/__init__.py", "..%2f__init__.py",
        "./page.js", "static/page.js", "page.js/", "/etc/passwd", "%2fetc%2fpasswd", "page.js%00", "..\\page.js", "nul",
    ],
)  # fmt: skip
def test_other_names_return_404(client: FlaskClient, name: str) -> None:
    response = client.get(f"/page/{name}", follow_redirects=True)  # of "//" to "/"
    assert response.status_code == 404
    assert response.get_json()["error"]["type"] == "invalid_request_error"


def test_traversal_on_the_wire_returns_404() -> None:
    with running(FakeDecoder()) as r:
        for path in (
            b"/page/../__init__.py",
            b"/page/..%2f__init__.py",
            b"/page/%2e%2e/%2e%2e/settings.py",
        ):
            with connection(r.port) as s:
                s.sendall(
                    b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                assert b" 404 " in read_all(s).split(b"\r\n")[0], path


@pytest.mark.parametrize("path", ["/", "/page/page.js"])
def test_head_has_the_headers_alone(client: FlaskClient, path: str) -> None:
    got, head = client.get(path, headers=HTML), client.head(path, headers=HTML)
    assert (head.status_code, head.data) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Content-Security-Policy"):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("path", ["/", "/page/page.js"])
def test_known_file_returns_304(client: FlaskClient, path: str, encoding: str) -> None:
    sent = {**HTML, "Accept-Encoding": encoding}
    etag = client.get(path, headers=sent).headers["ETag"]
    response = client.get(path, headers={**sent, "If-None-Match": f'"other", {etag}'})
    assert (response.status_code, response.data) == (304, b"")
    assert response.headers["ETag"] == etag
    assert response.headers["Cache-Control"] == "no-cache"
    for other in ('"other"', etag.replace("a", "b") + "x"):
        assert client.get(path, headers={**sent, "If-None-Match": other}).status_code == 200


def test_etag_of_one_file_does_not_match_another(client: FlaskClient) -> None:
    etag = client.get("/page/page.css").headers["ETag"]
    assert client.get("/page/page.js", headers={"If-None-Match": etag}).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "gzip, deflate, br", "br;q=1, gzip;q=0.5", "*"])
@pytest.mark.parametrize("path", ["/", "/page/page.js"])
def test_gzip_is_used_if_accepted(client: FlaskClient, path: str, encoding: str) -> None:
    sent = {**HTML, "Accept-Encoding": encoding}
    response = client.get(path, headers=sent)
    assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(response.data) == static(
        path.removeprefix("/page/").strip("/") or "index.html"
    )
    assert int(response.headers["Content-Length"]) == len(response.data)


@pytest.mark.parametrize("encoding", ["", "br", "identity", "gzip;q=0"])
def test_gzip_is_not_used_if_refused(client: FlaskClient, encoding: str) -> None:
    response = client.get("/page/page.css", headers={"Accept-Encoding": encoding})
    assert "Content-Encoding" not in response.headers
    assert response.data == static("page.css")


def test_all_of_the_page_has_at_most_400_kb_compressed(client: FlaskClient) -> None:
    sent = {"Accept-Encoding": "gzip"}
    assert sum(len(client.get(f"/page/{name}", headers=sent).data) for name in FILES) <= 400_000


def test_page_can_be_switched_off(make_client: MakeClient) -> None:
    client = make_client(SecurityOptions(has_page=False))
    response = client.get("/", headers=HTML)
    assert response.text.startswith("Hello world")
    assert response.mimetype == "text/plain"
    for name in FILES:
        assert client.get(f"/page/{name}").status_code == 404
    assert client.post("/v1/completions", json={"prompt": "x"}).status_code == 200


def test_page_needs_no_key_but_its_requests_do(make_client: MakeClient) -> None:
    client = make_client(SecurityOptions(api_keys=("k3y",)))
    assert client.get("/", headers=HTML).data == static("index.html")
    for name in FILES:
        assert client.get(f"/page/{name}").status_code == 200
    own = {"Origin": "http://localhost", "Host": "localhost"}
    for key, status in (({}, 401), ({"Authorization": "Bearer k3y"}, 200)):
        sent = {**own, **key}
        assert client.get("/v1/models", headers=sent).status_code == status
        body = {"prompt": "x", "suffix": "y"}
        assert client.post("/v1/completions", json=body, headers=sent).status_code == status
        assert client.post("/v1/events", json={}, headers=sent).status_code == status


def test_other_pages_and_other_hosts_are_refused(client: FlaskClient) -> None:
    for path in ("/", "/page/page.js"):
        evil = {**HTML, "Origin": "https://evil.com", "Host": "localhost"}
        assert client.get(path, headers=evil).status_code == 403
        assert client.get(path, headers={**HTML, "Host": "evil.com"}).status_code == 421
        own = {**HTML, "Origin": "http://localhost:18080", "Host": "localhost:18080"}
        assert client.get(path, headers=own).status_code == 200


def test_start_lines_name_the_page_if_it_is_on() -> None:
    assert "page     http://127.0.0.1:18080/" in how_to_use("0.0.0.0", 18080)
    assert not [s for s in how_to_use("::1", 5, has_page=False) if s.startswith("page")]
