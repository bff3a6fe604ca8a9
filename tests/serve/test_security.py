"""API keys: accepted and rejected headers, sources, and secrecy; Copilot's token."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from typer.testing import CliRunner

from serve.http.security import checked_options
from serve.http.security.keys import ApiKeys, presented, read_key_file
from serve.http.start_lines import how_to_use, open_to_strangers
from serve.security_options import KEY_VARIABLE, SecurityOptions
from serve.settings import ServerOptions
from tests.support.serving import MakeClient
from turbopilot.base.errors import InvalidInput
from turbopilot.cli import app as cli

KEY = "k3y-of-alice"
OTHER = "k3y-of-bob"
BODY = {"prompt": "well?"}


@pytest.fixture
def locked(make_client: MakeClient) -> FlaskClient:
    return make_client(SecurityOptions(api_keys=(KEY, OTHER)))


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Authorization": ""}, {"Authorization": "Bearer "}, {"Authorization": "Bearer undefined"},
        {"Authorization": "token x"}, {"Authorization": "Basic !"}, {"Authorization": "\xff\xfe"},
        {"X-Api-Key": "x"},
    ],
)  # fmt: skip
def test_without_keys_any_header_is_accepted(
    make_client: MakeClient, headers: dict[str, str]
) -> None:
    client = make_client(SecurityOptions())
    assert client.post("/v1/completions", json=BODY, headers=headers).status_code == 200
    assert client.get("/copilot_internal/v2/token", headers=headers).get_json()["token"] == "1"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"Bearer {OTHER}"},
        {"Authorization": f"bearer   {KEY} "}, {"Authorization": f"token {KEY}"}, {"X-Api-Key": KEY},
        {"Api-Key": KEY}, {"Authorization": "Bearer of an editor's proxy", "X-Api-Key": KEY},
    ],
)  # fmt: skip
def test_valid_key_is_accepted(locked: FlaskClient, headers: dict[str, str]) -> None:
    for path in ("/v1/completions", "/infill"):
        assert locked.post(path, json=BODY, headers=headers).status_code == 200
    assert locked.get("/metrics", headers=headers).status_code == 200


BAD_HEADERS = [
    {}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "},
    {"Authorization": "Bearer undefined"}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"},
    {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Bearer {KEY[:-1]}"},
    {"Authorization": f"Bearer {KEY}, Bearer {OTHER}"}, {"Authorization": f"Bearer {KEY.upper()}"},
    {"Authorization": "Bearer \xff\xfe"}, {"X-Api-Key": f"Bearer {KEY}"},
]  # fmt: skip


@pytest.mark.parametrize("headers", BAD_HEADERS)
def test_invalid_key_returns_401_in_each_dialect(
    locked: FlaskClient, headers: dict[str, str]
) -> None:
    response = locked.post("/v1/completions", json=BODY, headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    error = response.get_json()["error"]
    assert error["code"] == "invalid_api_key"
    assert "API key" in error["message"]
    assert KEY not in response.get_data(as_text=True)
    response = locked.post("/api/generate", json={"inputs": "x"}, headers=headers)
    assert response.status_code == 401
    assert isinstance(response.get_json()["error"], str)


@pytest.mark.parametrize(
    "path",
    [
        "/metrics", "/v1/models", "/copilot_internal/v2/token", "/nope", "/v1/engines/x/completions",
        "/health/../metrics", "/healthy", "/v1/health", "/v1/health/more", "/health;/metrics",
    ],
)  # fmt: skip
def test_other_paths_need_a_key(locked: FlaskClient, path: str) -> None:
    assert locked.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/", "/health"])
def test_index_and_health_need_no_key(locked: FlaskClient, path: str) -> None:
    assert locked.get(path).status_code == 200
    assert locked.head(path).status_code == 200


@pytest.mark.parametrize("scheme", ["token", "Bearer"])
def test_copilot_token_is_the_key_it_sent(locked: FlaskClient, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {OTHER}"}
    answer = locked.get("/copilot_internal/v2/token", headers=headers)
    token = answer.get_json()["token"]
    assert token == OTHER
    assert answer.headers["Cache-Control"] == "no-store"
    headers = {"Authorization": f"Bearer {token}"}
    path = "/v1/engines/copilot-codex/completions"
    assert locked.post(path, json=BODY, headers=headers).status_code == 200


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    keys = ApiKeys((KEY, OTHER, "third"))
    monkeypatch.setattr("serve.http.security.keys.hmac.compare_digest", compare)
    assert keys.knows(KEY)  # the first
    assert len(compared) == 3, "all keys must be compared, although the first matches"
    assert not keys.knows("no such key")
    assert len(compared) == 6
    assert {len(x) for pair in compared for x in pair} == {32}, "compared values differ in length"


def test_keys_are_neither_stored_nor_shown() -> None:
    assert KEY not in repr(vars(ApiKeys((KEY,))))
    options = SecurityOptions(api_keys=(KEY,))
    assert KEY not in repr(options)
    assert KEY not in repr(ServerOptions(Path("m.gguf"), security=options))
    assert KEY not in "".join(how_to_use("127.0.0.1", 1, needs_key=True))


def test_presented_keys_come_from_all_headers_that_are_not_blank() -> None:
    headers = {"Authorization": "token a", "X-Api-Key": "b", "Api-Key": " "}
    assert list(presented(lambda name: headers.get(name, ""))) == ["a", "b"]


def test_keys_are_not_logged(locked: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for key in (KEY, "wr0ng"):
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-Api-Key": key}):
            locked.post("/v1/completions", json=BODY, headers=headers).close()
            locked.get("/copilot_internal/v2/token", headers=headers).close()
    assert "POST /v1/completions 401" in caplog.text
    assert "POST /v1/completions 200" in caplog.text
    assert KEY not in caplog.text
    assert "wr0ng" not in caplog.text


# Keys from the command line


def options_of(environ: dict[str, str] | None = None, **given: Any) -> SecurityOptions:
    """Return the options as the command checks them; a warning is an error."""

    def warn(line: str) -> None:
        raise AssertionError(line)

    return checked_options(SecurityOptions(**given), warn, environ or {})


def test_keys_come_from_options_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# alice\nfrom-file\n\n  second  \r\n#bob\n")
    file.chmod(0o600)
    found = options_of({KEY_VARIABLE: "from-env"}, api_keys=("given", "given"), api_key_file=file)
    assert found.api_keys == ("given", "from-file", "second", "from-env")
    assert options_of() == SecurityOptions()


@pytest.mark.parametrize("key", ["", " ", "with space", "grün", "line\nbreak", "\x7f"])
def test_empty_or_unsendable_key_is_refused(key: str) -> None:
    for name, kwargs in (
        ("--api-key", {"api_keys": (KEY, key)}),
        (KEY_VARIABLE, {"environ": {KEY_VARIABLE: key}}),
    ):
        with pytest.raises(InvalidInput) as caught:
            options_of(**kwargs)
        assert name in caught.value.message
        assert caught.value.hint
        if key.strip():
            assert key not in caught.value.message


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "no key"), (b"# only\n\n# comments\n", "no key"), (b"fine\nno good\n", "line 2"),
        (b"\xff\xfe", "not UTF-8 text"), (b"x" * (2**20 + 1), "too large"),
    ],
)  # fmt: skip
def test_bad_key_file_is_refused(tmp_path: Path, data: bytes, word: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(data)
    file.chmod(0o600)
    with pytest.raises(InvalidInput) as caught:
        options_of(api_key_file=file)
    assert str(file) in caught.value.message
    assert word in caught.value.message
    assert "no good" not in caught.value.message
    for missing in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InvalidInput, match="--api-key-file"):
            options_of(api_key_file=missing)


def test_key_file_readable_by_others_logs_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY)
    lines: list[str] = []
    for mode, n in ((0o600, 0), (0o640, 1), (0o604, 2)):
        file.chmod(mode)
        assert read_key_file(file, lines.append) == [KEY]
        assert len(lines) == n
    assert f"chmod 600 {file}" in lines[0]
    assert KEY not in "".join(lines)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--api-key", ""], "--api-key"), (["--api-key-file", "nowhere"], "nowhere"),
        (["--cors-origin", "*"], "--api-key-file"), (["--cors-origin", "https://a.b/"], "--cors-origin"),
        (["--allowed-host", "http://a.b"], "--allowed-host"), (["--log-format", "jsn"], "did you mean json"),
    ],
)  # fmt: skip
def test_serve_refuses_bad_security_options(
    arguments: list[str], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["serve", "nothing.gguf", *arguments])
    assert result.exit_code == 2
    assert word in result.stderr
    assert "nothing.gguf" not in result.stderr, "options must be checked before the model"


def test_serve_passes_security_options(demo_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ServerOptions] = []
    monkeypatch.setattr("serve.http.server.serve", lambda options, *_: seen.append(options))
    monkeypatch.setenv(KEY_VARIABLE, OTHER)
    arguments = ["serve", str(demo_gguf), "--api-key", KEY, "--cors-origin", "https://a.b"]
    arguments += ["--allowed-host", "C.d", "--copilot-request-id"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.stderr
    assert seen[0].security == SecurityOptions(
        (KEY, OTHER), ("https://a.b",), ("c.d",), copilot_request_id=True
    )
    assert KEY not in result.output + result.stderr


def test_help_recommends_key_file_and_variable() -> None:
    text = " ".join(CliRunner().invoke(cli, ["serve", "--help"]).stdout.split())
    assert "list of processes" in text
    assert KEY_VARIABLE in text
    for option in ("--api-key-file", "--cors-origin", "--allowed-host", "--copilot-request-id"):
        assert option in text


def test_start_messages_name_the_key_but_do_not_show_it() -> None:
    assert "Authorization: Bearer $TURBOPILOT_API_KEY" in how_to_use("::1", 5, needs_key=True)[-1]
    assert "Authorization" not in how_to_use("::1", 5)[-1]
    line = open_to_strangers("0.0.0.0")
    assert "0.0.0.0" in line
    assert "--api-key-file" in line
    assert "\n" not in line


# Copilot


@pytest.mark.parametrize(
    ("path", "status"), [("/copilot_internal/v2/token", 200), ("/copilot_internal/user", 404)]
)
def test_github_request_id_is_sent_only_if_enabled(
    make_client: MakeClient, path: str, status: int
) -> None:
    assert "x-github-request-id" not in make_client(SecurityOptions()).get(path).headers
    client = make_client(SecurityOptions(copilot_request_id=True))
    response = client.get(path)
    assert response.status_code == status
    assert response.headers["x-github-request-id"] == response.headers["x-request-id"]
    assert "x-github-request-id" not in client.get("/v1/models").headers
