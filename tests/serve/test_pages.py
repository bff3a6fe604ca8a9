"""Access control by Host header and by origin of a web page (CORS)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from serve.http.app import create_app
from serve.http.security.hosts import (
    Hosts,
    check_name,
    is_loopback,
    own_names,
    parse_authority,
)
from serve.http.security.origins import (
    allowed_headers,
    check_origins,
    is_editor,
    is_same,
)
from serve.http.server import HttpServer, bind, run
from serve.security_options import SecurityOptions
from serve.settings import ServerOptions
from tests.support.fakes import FakeDecoder
from tests.support.pooled import one_model
from tests.support.serving import MakeClient, ask, connection, read_all, running, send
from turbopilot.base.errors import InvalidInput

KEY = "k3y-of-alice"
BODY: dict[str, object] = {"prompt": "well?"}


# Names


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("localhost", ("localhost", None)), ("LocalHost.:18080", ("localhost", 18080)),
        ("127.0.0.1:", ("127.0.0.1", None)), ("[::1]:80", ("::1", 80)),
        ("[::FFFF:127.0.0.1]", ("::ffff:127.0.0.1", None)), ("docker_name:1", ("docker_name", 1)),
        ("", None), (":80", None), (".", None), ("::1", None), ("[::1", None), ("[1.2.3.4]", None),
        ("[:::]", None), ("a b", None), ("a/b", None), ("user@localhost", None), ("localhost:80:80", None),
        ("localhost:99999999", None), ("localhost, evil.com", None), ("localhost\n", None), ("x" * 300, None),
    ],
)  # fmt: skip
def test_host_headers_are_parsed(text: str, wanted: tuple[str, int | None] | None) -> None:
    assert parse_authority(text) == wanted


def test_loopback_hosts_are_recognized() -> None:
    for host in ("localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        assert is_loopback(host), host
    for host in (
        "0.0.0.0", "::", "10.0.0.1", "::2", "localhost.evil.com", "evillocalhost", "127.1",
    ):  # fmt: skip
        assert not is_loopback(host), host


HERE = [
    "127.0.0.1", "127.0.0.1:18080", "127.1.2.3", "localhost", "LOCALHOST:1", "localhost.:80", "[::1]",
    "[::1]:18080", "my.localhost:5", "",
]  # fmt: skip
STRANGERS = [
    "evil.com", "evil.com:18080", "localhost.evil.com", "127.0.0.1.evil.com", "127.0.0.1.nip.io", "evillocalhost",
    "localhost@evil.com", "evil.com, localhost", "localhost evil.com", "x", "[::1].evil.com", "%31%32%37.0.0.1",
]  # fmt: skip


def no_names() -> tuple[str, ...]:
    raise AssertionError("a loopback server must not look up the machine's names")


@pytest.mark.parametrize("bound", ["127.0.0.1", "::1", "127.0.0.5"])
def test_local_server_answers_only_to_loopback_names(bound: str) -> None:
    hosts = Hosts(bound, names=no_names)
    assert all(map(hosts.accepts, HERE))
    for host in (*STRANGERS, "192.168.1.5", "[fe80::1]:80", "0.0.0.0"):
        assert not hosts.accepts(host), host


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "192.168.1.5", "fe80::1"])
def test_network_server_answers_to_addresses_and_own_names(bound: str) -> None:
    hosts = Hosts(bound, ["Code.Example.com."], lambda: ("gpu-box", "gpu-box.local"))
    more = ["192.168.1.5:18080", "[fe80::1]:80", "0.0.0.0", "gpu-box:1", "GPU-BOX.local"]
    for host in (*HERE, *more, "code.example.com:18080"):
        assert hosts.accepts(host), host
    for host in (*STRANGERS, "other-box", "a.code.example.com"):
        assert not hosts.accepts(host), host


def test_allowed_hosts_are_accepted() -> None:
    hosts = Hosts("127.0.0.1", ["code.example.com"], names=no_names)
    assert hosts.accepts("code.example.com:443")
    assert not hosts.accepts("evil.com")
    assert Hosts("127.0.0.1", ["*"]).accepts("evil.com")
    assert check_name("Code.Example.com.") == "code.example.com"
    assert check_name("[::1]") == "::1"
    assert check_name("*") == "*"
    for wrong in ("", "http://a.b", "a.b:80", "a b", "*.a.b"):
        with pytest.raises(InvalidInput, match="--allowed-host"):
            check_name(wrong)


def test_own_names_include_short_and_mdns_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Box.example.com")
    assert own_names() == ("box.example.com", "box", "box.local")
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    assert own_names() == ()


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nope", "/metrics"])
def test_foreign_host_returns_421(make_client: MakeClient, path: str) -> None:
    client = make_client(SecurityOptions())
    response = client.get(path, headers={"Host": "rebound.evil.com"})
    assert response.status_code == 421
    error = response.get_json()["error"]
    assert error["code"] == "host_not_allowed"
    assert "--allowed-host" in error["message"]
    allowed = make_client(SecurityOptions(allowed_hosts=("rebound.evil.com",)))
    assert allowed.get(path, headers={"Host": "rebound.evil.com"}).status_code in (200, 404)


def test_foreign_host_on_the_wire_returns_421() -> None:
    with running(FakeDecoder()) as r:
        for lines, status in (
            (b"", 200),  # HTTP/1.0 has no Host
            (b"Host:\r\n", 200), (b"Host: localhost:%d\r\n" % r.port, 200), (b"Host: evil.com\r\n", 421),
            (b"Host: localhost\r\nHost: evil.com\r\n", 421), (b"Host: evil.com\r\nHost: localhost\r\n", 421),
            (b"Host: \xff\r\n", 421),
        ):  # fmt: skip
            with connection(r.port) as s:
                s.sendall(b"GET /health HTTP/1.0\r\n" + lines + b"\r\n")
                assert read_all(s).split()[1] == b"%d" % status, lines


class Elsewhere(socket.socket):
    """Socket that listens on loopback, but reports 0.0.0.0 as its address."""

    def getsockname(self) -> tuple[str, int]:
        return "0.0.0.0", super().getsockname()[1]


@pytest.mark.parametrize("key", ["", KEY])
@pytest.mark.parametrize("beyond", [False, True])
def test_accepted_hosts_depend_on_the_bound_address(
    key: str, beyond: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    apps: list[Flask] = []
    ends = HttpServer.run

    def note(*args: Any) -> Flask:
        apps.append(create_app(*args))
        return apps[0]

    def end(server: HttpServer) -> None:
        server.stop()
        ends(server)

    monkeypatch.setattr("serve.http.server.create_app", note)
    monkeypatch.setattr(HttpServer, "run", end)
    listener = bind("127.0.0.1", 0)
    if beyond:
        listener = Elsewhere(fileno=listener.detach())
    options = ServerOptions(
        Path("m.gguf"),
        security=SecurityOptions(api_keys=(key,) if key else ()),
        host="code.example.com",
    )
    said: list[str] = []
    run(one_model(FakeDecoder()), listener, options, said.append)
    warnings = [line for line in said if line.startswith("warning")]
    assert len(warnings) == (beyond and not key)
    assert KEY not in "".join(said)
    client = apps[0].test_client()
    for host, is_own in (
        ("code.example.com", True), ("localhost", True), ("192.168.1.5:80", beyond), ("evil.com", False),
    ):  # fmt: skip
        headers = {"Host": host, "Authorization": f"Bearer {KEY}"}
        status = client.get("/v1/models", headers=headers).status_code
        assert status == (200 if is_own else 421), host


# Web pages


def test_origins_of_editors_are_recognized() -> None:
    for origin in (
        "vscode-webview://1q2w3e", "vscode-file://vscode-app", "app://obsidian.md", "tauri://localhost",
        "VSCODE-WEBVIEW://1q2w3e",
    ):  # fmt: skip
        assert is_editor(origin), origin
    for origin in (
        "https://evil.com", "HTTP://evil.com", "http://127.0.0.1:3000", "null", "nonsense", "//evil.com",
        "https://evil.com vscode-webview://x", "https://", "vscode-webview://x, https://evil.com",
        "file://", "ws://evil.com", "ftp://evil.com", "chrome-extension://abc", "vscode-webview:x",
    ):  # fmt: skip
        assert not is_editor(origin), origin


def test_same_origin_compares_host_and_port() -> None:
    for origin, host in (
        ("http://localhost:18080", "localhost:18080"),
        ("http://127.0.0.1", "127.0.0.1:80"),
        ("http://[::1]:5", "[::1]:5"),
        ("https://code.example.com", "code.example.com"),  # a proxy that speaks TLS
        ("https://Code.example.com:443", "code.example.com"),
    ):
        assert is_same(origin, host), origin
    for origin, host in (
        ("http://localhost:3000", "localhost:18080"), ("http://localhost:18080", "127.0.0.1:18080"),
        ("http://evil.com", "localhost"), ("http://evil.com", ""), ("null", "null"),
        ("http://localhost", "localhost:443"), ("ws://localhost:18080", "localhost:18080"),
        ("ftp://localhost", "localhost"), ("file://localhost", "localhost"),
    ):  # fmt: skip
        assert not is_same(origin, host), origin


FOREIGN = [
    "https://evil.com", "http://localhost:3000", "null", "http://localhost.evil.com", "x", "file://", "FILE://",
    "ws://localhost:18080", "ftp://localhost:18080", "chrome-extension://abc",
]  # fmt: skip
PROGRAMS = [None, ""]
WEBVIEWS = [
    "vscode-webview://1q2w",
    "vscode-file://vscode-app",
    "app://obsidian.md",
    "tauri://localhost",
]
HOST = "localhost:18080"


def post_from(
    client: FlaskClient, origin: str | None, path: str = "/v1/completions", **headers: str
) -> tuple[int, dict[str, str]]:
    """Send a request that a page's form or script can send without a preflight."""
    more = {} if origin is None else {"Origin": origin}
    response = client.post(
        path,
        data=json.dumps({"prompt": "well?", "inputs": "well?"}),
        content_type="text/plain",
        headers={"Host": HOST, **headers, **more},
    )
    return response.status_code, dict(response.headers)


@pytest.mark.parametrize("origin", FOREIGN)
def test_foreign_page_returns_403(make_client: MakeClient, origin: str) -> None:
    client = make_client(SecurityOptions())
    for path in ("/v1/completions", "/api/generate", "/infill"):
        status, headers = post_from(client, origin, path)
        assert status == 403
        assert not any(name.startswith("Access-Control") for name in headers)
    response = client.get("/v1/models", headers={"Origin": origin, "Host": HOST})
    assert response.status_code == 403
    assert response.get_json()["error"]["code"] == "origin_not_allowed"


def test_request_of_a_foreign_page_does_not_reach_the_engine() -> None:
    with running(FakeDecoder()) as r:
        with connection(r.port) as s:
            send(s, BODY, headers="Origin: https://evil.com\r\nConnection: close\r\n")
            assert b" 403 " in read_all(s).split(b"\r\n")[0]
        assert not r.runner.seen
        status, _, _ = ask(r.port, "POST", "/v1/completions", {**BODY, "max_tokens": 1})
        assert status == 200


@pytest.mark.parametrize("origin", [*PROGRAMS, f"http://{HOST}"])
def test_programs_and_own_pages_are_served(make_client: MakeClient, origin: str | None) -> None:
    status, headers = post_from(make_client(SecurityOptions()), origin)
    assert status == 200
    assert not any(name.startswith("Access-Control") for name in headers)
    assert headers["Vary"] == "Origin"


@pytest.mark.parametrize("origin", WEBVIEWS)
@pytest.mark.parametrize("cors_origins", [(), ("https://chat.example.com",)])
def test_webview_of_an_editor_reads_responses(
    make_client: MakeClient, origin: str, cors_origins: tuple[str, ...]
) -> None:
    client = make_client(SecurityOptions(api_keys=(KEY,), cors_origins=cors_origins))
    status, headers = preflight(client, origin)
    assert (status, headers["Access-Control-Allow-Origin"]) == (204, origin)
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert "authorization" in headers["Access-Control-Allow-Headers"]
    for key, wanted in ((KEY, 200), ("wrong", 401)):
        status, headers = post_from(client, origin, Authorization=f"Bearer {key}")
        assert (status, headers["Access-Control-Allow-Origin"]) == (wanted, origin)
        assert headers["Vary"] == "Origin"


PAGE = "https://chat.example.com"


def preflight(client: FlaskClient, origin: str, **headers: str) -> tuple[int, dict[str, str]]:
    wanted = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, x-turbopilot-session, x-evil",
    }
    response = client.options("/v1/completions", headers={"Origin": origin, **wanted, **headers})
    return response.status_code, dict(response.headers)


def test_preflight_of_an_allowed_page_succeeds(make_client: MakeClient) -> None:
    # Browsers send no key in a preflight request.
    client = make_client(SecurityOptions(api_keys=(KEY,), cors_origins=(PAGE,)))
    status, headers = preflight(client, PAGE)
    assert status == 204
    assert headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in headers["Access-Control-Allow-Methods"]
    allowed = headers["Access-Control-Allow-Headers"].split(", ")
    assert {"authorization", "content-type", "x-turbopilot-session"} <= set(allowed)
    assert "x-evil" not in allowed
    assert headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Private-Network" not in headers
    assert "Access-Control-Allow-Credentials" not in headers
    _, headers = preflight(client, PAGE, **{"Access-Control-Request-Private-Network": "true"})
    assert headers["Access-Control-Allow-Private-Network"] == "true"


def test_allowed_page_reads_responses(make_client: MakeClient) -> None:
    client = make_client(SecurityOptions(api_keys=(KEY,), cors_origins=(PAGE,)))
    for key, wanted in ((KEY, 200), ("wrong", 401)):
        status, headers = post_from(client, PAGE, Authorization=f"Bearer {key}")
        assert status == wanted
        assert headers["Access-Control-Allow-Origin"] == PAGE, "the page could not read the error"
        exposed = headers["Access-Control-Expose-Headers"]
        assert "X-TurboPilot-Truncated" in exposed
        assert "X-Request-Id" in exposed
        assert headers["Vary"] == "Origin"


def test_other_pages_get_no_cors_headers(make_client: MakeClient) -> None:
    client = make_client(SecurityOptions(cors_origins=(PAGE,)))
    for origin in (*FOREIGN, PAGE + ".evil.com", PAGE + ":444", "http://chat.example.com"):
        for status, headers in (preflight(client, origin), post_from(client, origin)):
            assert status == 403
            assert not any(name.startswith("Access-Control") for name in headers)
            assert headers["Vary"] == "Origin", (
                "a cache could mix up responses for different origins"
            )


def test_wildcard_origin_allows_every_page_with_a_key(make_client: MakeClient) -> None:
    client = make_client(SecurityOptions(api_keys=(KEY,), cors_origins=("*",)))
    for origin in (*FOREIGN[:4], "vscode-webview://x"):
        status, headers = preflight(client, origin)
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, "*")
        assert post_from(client, origin)[0] == 401
        assert post_from(client, origin, Authorization=f"Bearer {KEY}")[0] == 200


def test_cors_origin_values_are_validated() -> None:
    good = ("HTTPS://Chat.example.com", "http://localhost:3000", "vscode-webview://x", "file://")
    assert check_origins(good, has_keys=False) == tuple(map(str.lower, good))
    for bad in (
        "", "chat.example.com", PAGE + "/", PAGE + "/path", "https://*.example.com", "http://",
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match="--cors-origin"):
            check_origins([bad], has_keys=True)
    for everybody in ("*", "null"):
        assert check_origins([everybody], has_keys=True) == (everybody,)
        with pytest.raises(InvalidInput, match="every web page"):
            check_origins([everybody], has_keys=False)
    with pytest.raises(InvalidInput, match="all of them"):
        check_origins(["*", PAGE], has_keys=True)


def test_preflight_allows_known_headers_only() -> None:
    found = allowed_headers("X-Stainless-OS,x-turbopilot-New, cookie,x-stainless-\r\nevil")
    assert {"x-stainless-os", "x-turbopilot-new", "authorization"} <= set(found)
    assert "cookie" not in found
    assert not any("evil" in name for name in found)
