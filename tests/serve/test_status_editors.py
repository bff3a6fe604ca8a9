"""`/status/editors`: settings for the server's address, and checks that the server answers as each editor reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from serve.http.app import create_app
from serve.settings import SecurityOptions
from tests.support.fakes import FakeDecoder, letters
from tests.support.serving import AS_GIVEN, make_service, pool_of
from turbopilot.editors import EDITORS
from turbopilot.editors.entries import KEY_PLACEHOLDER, entries

KEY = "s3cret-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module", params=["open", "keys"])
def client(request: pytest.FixtureRequest) -> Iterator[FlaskClient]:
    keys = (KEY,) if request.param == "keys" else ()
    service, runner = make_service(FakeDecoder(letters, n_ctx=2048), text=AS_GIVEN)
    runner.start()
    try:
        yield create_app(
            pool_of(service), None, SecurityOptions(api_keys=keys), (), entries
        ).test_client()
    finally:
        runner.close()


def asked(client: FlaskClient, query: str = "", host: str = "localhost:4711") -> Any:
    response = client.get(f"/status/editors{query}", headers={**HEADERS, "Host": host})
    return response.status_code, response.get_json()


@pytest.mark.parametrize(
    ("query", "host", "url"),
    [
        ("", "localhost:4711", "http://localhost:4711"), ("", "[::1]:81", "http://[::1]:81"),
        ("?scheme=https", "localhost", "https://localhost"), ("?scheme=http", "127.0.0.1:1", "http://127.0.0.1:1"),
    ],
)  # fmt: skip
def test_settings_have_the_address_of_the_host_header(
    client: FlaskClient, query: str, host: str, url: str
) -> None:
    status, answer = asked(client, query, host)
    assert status == 200
    (zed,) = (e for e in answer["editors"] if e["name"] == "zed")
    assert f'"{url}/v1/completions"' in zed["settings"][0]["text"]


def test_settings_have_the_default_or_the_given_model(client: FlaskClient) -> None:
    for query, wanted in (("", "fake"), ("?model=qwen2.5-coder", "qwen2.5-coder")):
        _, answer = asked(client, query)
        (curl,) = (e for e in answer["editors"] if e["name"] == "curl")
        assert curl["check"]["body"]["model"] == wanted


def test_answer_never_contains_a_key(client: FlaskClient) -> None:
    needs_key = client.get("/v1/models").status_code == 401
    _, answer = asked(client)
    text = json.dumps(answer)
    assert KEY not in text
    assert (KEY_PLACEHOLDER in text) is needs_key


def test_key_is_required(client: FlaskClient) -> None:
    wanted = client.get("/v1/models").status_code
    assert client.get("/status/editors").status_code == wanted


@pytest.mark.parametrize("query", ["?scheme=ftp", "?scheme=", "?scheme=https:%2F%2Fevil.com%2F"])
def test_other_schemes_return_400(client: FlaskClient, query: str) -> None:
    status, answer = asked(client, query)
    assert status == 400
    assert answer["error"]["param"] == "scheme"


def test_invalid_host_returns_400() -> None:
    service, _ = make_service(FakeDecoder(letters))
    everywhere = SecurityOptions(allowed_hosts=("*",))
    client = create_app(pool_of(service), None, everywhere, (), entries).test_client()
    assert asked(client, host="a b")[0] == 400


def test_server_without_editors_returns_an_empty_list() -> None:
    service, _ = make_service(FakeDecoder(letters))
    client = create_app(pool_of(service)).test_client()
    assert asked(client) == (200, {"editors": [], "key_placeholder": ""})


@pytest.mark.parametrize("name", [e.name for e in EDITORS])
def test_check_is_answered_with_text(client: FlaskClient, name: str) -> None:
    (editor,) = (e for e in asked(client)[1]["editors"] if e["name"] == name)
    check = editor["check"]
    response = client.open(
        check["path"], method=check["method"], json=check["body"], headers=HEADERS
    )
    assert response.status_code == 200, response.get_json()
    assert response.mimetype == "text/event-stream" or not check["streams"]
    data = response.get_data(as_text=True)
    if check["streams"]:
        *frames, last = (e.removeprefix("data: ") for e in data.split("\n\n") if e)
        assert last == "[DONE]"
        text = "".join(json.loads(f)["choices"][0]["text"] for f in frames)
    else:
        found = json.loads(data)
        text = next(
            found[k] for k in ("content", "response", "choices", "completion") if k in found
        )
    # The fake model writes letters, which are not the lines of a file that Sweep's plugins expect.
    assert text or name == "sweep"
