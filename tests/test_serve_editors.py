"""69 requests as 15 real editors and clients sent them, replayed: each gets the answer that it can read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from serve.http.app import create_app
from serve.models import OneModel
from tests.fakes import FakeDecoder
from tests.serving import make_service

CAPTURED = [
    json.loads(line)
    for line in (Path(__file__).parent / "data/editor_requests.jsonl")
    .read_text("utf-8")
    .splitlines()
]
SERVED = ("/v1/completions", "/v1/models", "/api/generate", "/copilot_internal/v2/token")


@pytest.fixture
def client() -> Iterator[FlaskClient]:
    service, runner = make_service(FakeDecoder(n_ctx=2048))
    runner.start()
    yield create_app(OneModel(service)).test_client()
    runner.close()


def is_served(path: str) -> bool:
    return path in SERVED or (path.startswith("/v1/engines/") and path.endswith("/completions"))


@pytest.mark.parametrize(
    "captured", CAPTURED, ids=[f"{i}: {c['client']} {c['path']}" for i, c in enumerate(CAPTURED)]
)
def test_replay(client: FlaskClient, captured: dict[str, Any]) -> None:
    path, body = captured["path"], captured["body"]
    response = client.open(
        path,
        method=captured["method"],
        headers=captured["headers"],
        data=None if body is None else json.dumps(body),
    )
    data = response.get_data(as_text=True)
    if not is_served(path):
        assert response.status_code == 404
        assert json.loads(data)["error"]
        return
    assert response.status_code == 200
    if captured["method"] == "GET":
        assert json.loads(data).get("token") or json.loads(data)["data"][0]["id"]
    elif path == "/api/generate":
        lines = [json.loads(line) for line in data.splitlines()]
        assert [x["done"] for x in lines] == [False] * (len(lines) - 1) + [True]
        assert all(x["model"] == body["model"] for x in lines)
    elif body.get("stream"):
        check_stream(data, body)
    else:
        check_answer(json.loads(data), body)


def check_answer(answer: dict[str, Any], body: dict[str, Any]) -> None:
    assert answer["object"] == "text_completion"
    assert [c["index"] for c in answer["choices"]] == list(range(body.get("n", 1)))
    for choice in answer["choices"]:
        assert choice["finish_reason"] in ("stop", "length")
        assert not any(s in choice["text"] for s in body.get("stop") or [])
    assert answer["usage"]["completion_tokens"] <= body.get("n", 1) * body.get("max_tokens", 200)


def check_stream(data: str, body: dict[str, Any]) -> None:
    *events, done, end = data.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    chunks = [json.loads(e.removeprefix("data: ")) for e in events]
    if (body.get("stream_options") or {}).get("include_usage"):
        assert chunks[-1]["choices"] == []
        assert chunks.pop()["usage"]["total_tokens"] > 0
    assert len({(c["id"], c["created"], c["model"]) for c in chunks}) == 1
    prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    for index in range(body.get("n", 1) * len(prompts)):
        mine = [x for c in chunks for x in c["choices"] if x["index"] == index]
        assert all(isinstance(x["text"], str) for x in mine)
        *rest, last = [x["finish_reason"] for x in mine]
        assert last in ("stop", "length")
        assert set(rest) <= {None}
