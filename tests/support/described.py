"""Validation of requests and responses against `/openapi.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator

from serve.api.body import Body as RequestBody
from serve.api.endpoints import ENDPOINTS

Document = Mapping[str, Any]
Body = dict[str, Any]

# A small request body for each schema name.
BODIES: Mapping[str, Body] = {
    "CompletionRequest": {"prompt": "x"}, "TabbyRequest": {"segments": {"prefix": "x"}},
    "ChatRequest": {"messages": [{"role": "user", "content": "x"}]}, "MistralFimRequest": {"prompt": "x"},
    "LlamaCompletionRequest": {"prompt": "x"}, "InfillRequest": {"input_prefix": "x"},
    "NextEditRequest": {"file_path": "x", "file_contents": "x", "cursor_position": 0},
    "HuggingFaceRequest": {"inputs": "x"}, "HuggingFaceStreamRequest": {"inputs": "x"},
    "HuggingFaceListRequest": {"inputs": "x"}, "OllamaRequest": {"prompt": "x"},
    "OllamaChatRequest": {"messages": [{"role": "user", "content": "x"}]}, "ShowRequest": {"model": "x"},
    "TokenizeRequest": {"content": "x"}, "DetokenizeRequest": {"tokens": [1]},
    "ModelChange": {"model": "x"},
    "ApplyTemplateRequest": {"messages": [{"role": "user", "content": "x"}]},
}  # fmt: skip
_KINDS = [
    (kind, e.paths[0])
    for e in ENDPOINTS
    for kind in (*e.requests, e.body)
    if kind and issubclass(kind, RequestBody)
]
KINDS: Mapping[str, type[RequestBody]] = {kind.__name__: kind for kind, _ in _KINDS}
PATHS: Mapping[str, str] = {kind.__name__: path for kind, path in _KINDS}


def validator(document: Document, schema: Mapping[str, Any]) -> Draft202012Validator:
    """Return a validator for a schema whose references point into the document."""
    return Draft202012Validator({"components": document["components"], **schema})


def resolved(document: Document, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    ref = schema.get("$ref")
    if ref is None:
        return schema
    found: Mapping[str, Any] = document["components"]["schemas"][ref.rpartition("/")[2]]
    return found


def fields(document: Document, schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield the names of all fields of a schema, nested ones as "messages[].role"."""
    schema = resolved(document, schema)
    for name, field in schema.get("properties", {}).items():
        yield path + name
        yield from fields(document, field, f"{path}{name}.")
    if "items" in schema:
        yield from fields(document, schema["items"], f"{path.removesuffix('.')}[].")
    for other in schema.get("anyOf", ()):
        yield from fields(document, other, path)


def pieces(mimetype: str, data: bytes) -> Iterable[Any]:
    if mimetype == "application/x-ndjson":
        return [json.loads(line) for line in data.splitlines()]
    *events, end = data.split(b"\n\n")
    assert end == b"", "data after the last event"
    assert all(e.startswith(b"data: ") and b"\n" not in e for e in events)
    return [json.loads(e[6:]) for e in events if e != b"data: [DONE]"]


def check_answer(
    document: Document,
    operation: Mapping[str, Any],
    status: int,
    headers: Mapping[str, str],
    data: bytes,
) -> None:
    """Raise AssertionError if the document does not describe this response of an operation."""
    assert str(status) in operation["responses"], f"{status} is not described: {data[:300]!r}"
    answer = operation["responses"][str(status)]
    headers = {name.lower(): value for name, value in headers.items()}
    for name, header in answer.get("headers", {}).items():
        assert name.lower() in headers or not header.get("required"), f"{status} lacks {name}"
    if not (content := answer.get("content")):
        assert data == b""
        return
    mimetype = headers["content-type"].partition(";")[0]
    assert mimetype in content, f"{status} as {mimetype} is not described"
    media = content[mimetype]
    if "x-itemSchema" in media:
        check = validator(document, media["x-itemSchema"])
        for piece in pieces(mimetype, data):
            check.validate(piece)
    elif mimetype in ("application/json", "application/x-ndjson"):
        validator(document, media["schema"]).validate(json.loads(data))
    else:
        data.decode()
