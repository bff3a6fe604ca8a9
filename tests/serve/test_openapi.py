"""`/openapi.json` matches the server: every route, every field with its range, and every response."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from werkzeug.test import TestResponse

from serve.adapters import AdapterFile, AdapterOptions, AdapterScales
from serve.api.body import Body as RequestBody
from serve.api.dialect import Dialect
from serve.api.endpoints import ENDPOINTS, Endpoint
from serve.api.openapi import description
from serve.http.app import create_app
from serve.settings import Defaults, SecurityOptions
from tests.support.described import BODIES, KINDS, Body, check_answer, fields, validator
from tests.support.fakes import TalkingDecoder
from tests.support.serving import flask_client, make_service, pool_of
from turbopilot.base.errors import InvalidRequest

DOCUMENT: Any = json.loads(json.dumps(description(Defaults())))
METHODS = {"get", "post", "put", "patch", "delete"}
CAPTURED = Path(__file__).parents[1] / "data/editor_requests.jsonl"

SCHEMAS = {name: {"$ref": f"#/components/schemas/{name}"} for name in KINDS}
# Field → other fields that it requires, with values.
NEEDS: dict[str, dict[str, object]] = {
    "response_format.json_schema.schema": {"response_format.type": "json_schema"},
    "messages[].content[].text": {"messages[].content[].type": "text"},
    "lora[].id": {"lora[].scale": 1},
    "lora[].scale": {"lora[].id": 0},
}
CASES = [(name, path) for name in KINDS for path in fields(DOCUMENT, SCHEMAS[name])]
VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 3, -1, -2, -3, 21, 128, 129, 0.005, 0.5, 1.5, 2.5, 3.0, -0.5, 2**40, 2**70,
    1e300, "", "x", "text", "json", "json_object", "user", "\0\n🙂", [], ["x"], ["x", 1], [1], [1, 2], [[1], [2]],
    [["x"]], [["x", 1]], [[1, False]], [["x", 101]], [["x", True]], [None], [{}], [{"type": "text", "text": "x"}],
    [{"role": "user"}], {}, {"a": 1}, {"a": -101}, {"a": False}, {"a": None}, {"role": "user"}, {"schema": {}},
    {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": {}}}, {"prefix": "x"},
    [["x" * 129, 1]], {"x" * 129: 1}, {"x" * 128: 1},
]  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Iterator[FlaskClient]:
    service, runner = make_service(TalkingDecoder())
    runner.start()
    adapters = AdapterOptions((AdapterFile(Path("style.gguf")),), can_switch=True)
    yield create_app(pool_of(service, AdapterScales(adapters))).test_client()
    assert runner.wait_until_idle(60)
    assert not runner.n_restarts
    runner.close()


@pytest.fixture(autouse=True)
def plain_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replacement of the schema's check, which has its own tests."""
    monkeypatch.setattr("serve.sampling.json_schema.schema_text", lambda _: "{}")


def put(body: Body, path: str, value: object) -> None:
    """Set a field by its path, as in `fields`; create missing objects and lists around it."""
    at: Any = body
    *outer, last = re.split(r"\.", path)
    for name in outer:
        if name.endswith("[]"):
            name = name[:-2]
            if not isinstance(at.get(name), list):
                at[name] = [{}]
            at = at[name][0]
        else:
            at = at.setdefault(name, {})
    at[last] = value


def with_field(name: str, path: str, value: object) -> Body:
    body = copy.deepcopy(BODIES[name])
    for field, needs in NEEDS.items():
        if path.endswith(field):
            for other, needed in needs.items():
                put(body, path.removesuffix(field) + other, needed)
    put(body, path, value)
    return body


def check(response: TestResponse, path: str, status: int, method: str = "post") -> None:
    """Raise AssertionError unless the response has this status and matches the document."""
    assert response.status_code == status
    operation = DOCUMENT["paths"][path][method]
    check_answer(DOCUMENT, operation, status, dict(response.headers), response.get_data())


def test_document_is_served(client: FlaskClient) -> None:
    response = client.get("/openapi.json")
    assert response.mimetype == "application/json"
    assert response.get_json() == DOCUMENT


def test_schemas_are_valid_json_schemas() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            for answer in operation["responses"].values():
                for media in answer.get("content", {}).values():
                    (schema,) = media.values()
                    Draft202012Validator.check_schema(schema)


def test_operation_ids_are_unique() -> None:
    names = [o["operationId"] for item in DOCUMENT["paths"].values() for o in item.values()]
    assert len(names) == len(set(names))


def test_schemas_have_the_servers_defaults() -> None:
    other: Any = description(Defaults(max_tokens=77, temperature=0.5, top_p=0.25))
    for name in ("max_tokens", "temperature", "top_p"):
        told = other["components"]["schemas"]["CompletionRequest"]["properties"][name]["default"]
        assert told == {"max_tokens": 77, "temperature": 0.5, "top_p": 0.25}[name]


def test_document_describes_exactly_the_routes(client: FlaskClient) -> None:
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {(p, m) for p, item in DOCUMENT["paths"].items() for m in item if m in METHODS}
    assert routes == described


def test_every_schema_is_referenced() -> None:
    text = json.dumps(DOCUMENT)
    unused = [n for n in DOCUMENT["components"]["schemas"] if f'schemas/{n}"' not in text]
    assert not unused


def refusal(kind: type[RequestBody], body: Body) -> InvalidRequest | None:
    try:
        asked = kind.read(json.loads(json.dumps(body)))
        if isinstance(asked, Dialect):
            asked.completion(Defaults())
    except InvalidRequest as e:
        return e
    return None


@pytest.mark.parametrize(("name", "path"), CASES, ids=[".".join(case) for case in CASES])
def test_server_refuses_exactly_the_values_that_the_schema_forbids(name: str, path: str) -> None:
    schema, taken = validator(DOCUMENT, SCHEMAS[name]), []
    for value in VALUES:
        body = with_field(name, path, value)
        error = refusal(KINDS[name], body)
        assert schema.is_valid(body) == (error is None), (body, error)
        taken.append(error is None)
        if error:
            named = re.sub(r"\[\d+\]", "[]", error.param or "")
            assert named
            assert named.startswith(path) or path.startswith(named), (body, error)
    assert any(taken)
    assert not all(taken) or path.endswith(("samplers", "model", "name"))


def test_recorded_requests_match_their_schemas() -> None:
    for line in CAPTURED.read_text("utf-8").splitlines():
        sent = json.loads(line)
        path = re.sub("/engines/[^/]+/", "/engines/{engine}/", sent["path"])
        operation = DOCUMENT["paths"].get(path, {}).get(sent["method"].lower(), {})
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            validator(DOCUMENT, schema).validate(sent["body"])


# Their examples name a model that this server does not have; see test_status.
POST_PATHS = [
    p
    for p, item in DOCUMENT["paths"].items()
    if "post" in item and p not in ("/models/load", "/models/unload")
]


@pytest.mark.parametrize("path", POST_PATHS)
def test_responses_to_examples_match_the_document(client: FlaskClient, path: str) -> None:
    operation = DOCUMENT["paths"][path]["post"]
    example: Body = {}
    if "requestBody" in operation:
        example = operation["requestBody"]["content"]["application/json"]["example"]
    status = 200 if "200" in operation["responses"] else 501
    check(client.post(path.replace("{engine}", "any/thing"), json=example), path, status)


GET_PATHS = [e.paths[0] for e in ENDPOINTS if "GET" in e.methods and not e.streams]


@pytest.mark.parametrize("path", GET_PATHS)
def test_responses_of_get_routes_match_the_document(client: FlaskClient, path: str) -> None:
    check(client.get(path.format(name="fake", file="page.js")), path, 200, "get")


def test_response_for_an_unknown_name_matches_the_document(client: FlaskClient) -> None:
    check(client.get("/v1/models/any/thing"), "/v1/models/{name}", 404, "get")
    check(client.get("/page/any/thing"), "/page/{file}", 404, "get")


STREAM = {"stream": True, "stream_options": {"include_usage": True}}
CHAT = {"messages": [{"role": "user"}], "n": 2, "logprobs": True, "top_logprobs": 2}
RICH: list[tuple[str, Body]] = [
    ("/v1/completions", {"prompt": ["a", "b"], "n": 2, "best_of": 3, "echo": True, "logprobs": 2}),
    ("/v1/completions", {"prompt": [1, 2], "n": 2, "echo": True, "logprobs": 2, **STREAM}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, **STREAM}),
    ("/v1/fim/completions", {"prompt": "a", "suffix": "b", "stream": True, "timings_per_token": True}),
    ("/tokenize", {"content": "a <fim_prefix>\u00e9", "with_pieces": True, "add_special": True}),
    ("/detokenize", {"tokens": [104, 105, 255, 257]}),
    ("/infill", {"input_prefix": "a", "n_cmpl": 2, "n_probs": 2}),
    ("/infill", {"input_prefix": "a", "n_cmpl": 2, "n_probs": 2, "stream": True}),
    ("/completion", {"prompt": "a", "response_fields": ["content", "timings/prompt_n", "timings", "nothing/x"]}),
    ("/api/generate", {"inputs": "a", "parameters": {"return_full_text": True, "details": True}}),
    ("/generate_stream", {"inputs": "a"}),
    ("/", {"inputs": "a", "parameters": {"details": True, "seed": 5}}),
    ("/", {"inputs": "a", "stream": True}),
    ("/api/chat", {"messages": [{"role": "user", "content": "a"}]}),
    ("/api/chat", {"messages": [{"role": "user", "content": "a"}], "stream": False}),
    ("/api/chat", {}),
    ("/api/generate", {"prompt": "a"}),
    ("/api/generate", {"prompt": ""}),
    ("/v1/completions", {"prompt": "a", "prediction": {"content": "b"}}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), RICH)
def test_responses_with_many_fields_match_the_document(
    client: FlaskClient, path: str, body: Body
) -> None:
    check(client.post(path, json={"max_tokens": 3, "temperature": 2, **body}), path, 200)


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if e.requests], ids=lambda e: e.name)
def test_error_responses_match_the_document(endpoint: Endpoint) -> None:
    path = endpoint.paths[0]
    body = {**endpoint.requests[0].example, "stream": False}
    service, runner = make_service(TalkingDecoder())
    runner.start()
    client = create_app(pool_of(service)).test_client()
    check(client.post(path, json={**body, "deadline_ms": 1e-9}), path, 504)
    runner.drain()
    check(client.post(path, json=body), path, 503)
    check(client.delete(path), path, 405)
    check(client.post(path, data=b" " * (9 * 2**20)), path, 413)
    runner.close()


PLAIN_PATHS = [p for p in DOCUMENT["paths"] if "{" not in p]


@pytest.mark.parametrize("path", PLAIN_PATHS)
def test_document_states_which_routes_need_a_key(path: str) -> None:
    with flask_client(SecurityOptions(api_keys=("a-key",))) as client:
        for method, operation in DOCUMENT["paths"][path].items():
            status = client.open(path, method=method.upper()).status_code
            assert (status == 401) == ("401" in operation["responses"])
            assert (status == 401) == (operation.get("security") != [])
