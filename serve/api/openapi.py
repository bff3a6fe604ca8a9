"""`/openapi.json`: the OpenAPI document, generated from the table of endpoints and their types."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema
from typing_extensions import TypedDict

from serve.api.dialect import SSE
from serve.api.endpoints import ENDPOINTS, TAGS, Endpoint, plain_errors
from serve.api.health import HealthAnswer
from serve.api.llama_state import SlotsAnswer
from serve.api.llama_tokenizer import ModelRequest
from serve.api.sampling import SERVER_DEFAULT
from serve.api.status import ModelChange
from serve.request_headers import DEADLINE_HEADER, PRIORITY_HEADER, SESSION_HEADER
from serve.settings import MAX_BODY_BYTES, Defaults
from turbopilot.base.version import __version__

_REF: Final = "#/components/schemas/{model}"
_ABOUT: Final = f"""Code completions from a model on this machine, in the API dialects that editors use.

- Unknown fields are ignored, null means that a field is absent, and any model name is accepted. A field of the wrong \
type or out of range is refused with status 400; the error names the field.
- A request body is JSON in UTF-8 of less than {MAX_BODY_BYTES // 2**20} MiB. Its Content-Type is ignored; \
it must not be compressed, unless the route says so.
- A prompt that is too long loses the text farthest from the cursor, and a completion ends at the end of the context. \
Neither is an error; both are reported in the response.
- A client that closes its connection, or only its sending side, cancels its request.
- `x-itemSchema` describes the chunks of a stream. If a stream fails, its last chunk is an error."""


class ErrorDetails(TypedDict):
    """An error. `param` is the name of the invalid field or header."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiError(TypedDict):
    """An error in OpenAI's format."""

    error: ErrorDetails


class PlainError(TypedDict):
    """An error in Hugging Face's and Ollama's format."""

    error: str


# Errors of every route.
_ALWAYS: Final = {
    400: "The request is not valid HTTP, the body is not a JSON object, or a field is invalid.",
    403: "The request comes from a web page that is not allowed, or changes what the server's options fix.",
    405: "The route does not support this method.",
    413: "The body is too large.",
    415: "The body is compressed (`Content-Encoding`).",
    421: "The Host header is not a name of this server.",
    431: "The headers are too large.",
    500: "Internal error. See the server's log for details.",
}
# Why a path with a parameter may be unknown.
_ABSENT: Final = {
    "{name}": {404: "The server has no model with this name."},
    "{file}": {404: "The page has no such file, or it is off (`--no-page`)."},
}
_REFUSED: Final = {501: "The server does not support this route; the error states why."}
_KEYED: Final = {401: "The server requires an API key, and the request has none or a wrong one."}
# Further errors of routes that need a loaded model, of those that complete, and of `/slots`.
_LOADED: Final = {
    499: "A newer request of the same session ended this one, or the client closed its sending side. Do not retry.",
    503: "The queue is full or the server is shutting down. Retry after the number of seconds in `Retry-After`.",
}
_COMPUTED: Final = {**_LOADED, 504: "The deadline passed before any text was generated."}
_BUSY: Final = {503: "No slot is free."}
_WATCHED: Final = {503: "There are too many viewers."}


_STRING: Final = {"type": "string"}
_HEADERS: Final = {
    405: ("Allow", "The supported methods.", _STRING),
    501: ("X-Should-Retry", "Keeps OpenAI's SDKs from retrying.", {"enum": ["false"]}),
    503: ("Retry-After", "Seconds until the next attempt.", {"type": "integer", "minimum": 1}),
    504: ("X-Should-Retry", "Keeps OpenAI's SDKs from retrying.", {"enum": ["false"]}),
}
_TRUNCATED: Final = (
    "The parts that were shortened to fit the context: prompt, input_extra, max_tokens."
)
_PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": SESSION_HEADER,
        "in": "header",
        "description": "Session name, chosen by the client. A new request ends earlier requests of the same session.",
        "schema": _STRING,
    },
    {
        "name": DEADLINE_HEADER,
        "in": "header",
        "description": "Same as `deadline_ms`, over which it takes precedence.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10**9},
    },
    {
        "name": PRIORITY_HEADER,
        "in": "header",
        "description": "`low` runs only while no request of normal priority is queued or running.",
        "schema": {"enum": ["low", "normal"], "default": "normal"},
    },
]


class _Schemas(GenerateJsonSchema):
    """Generator of JSON schemas: optional request fields may be null, and responses have no additional fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found, null = super().default_schema(schema), {"type": "null"}
        if found.get("default", "") is None:
            del found["default"]
        if "$ref" in found:
            found["anyOf"] = [{"$ref": found.pop("$ref")}, null]
        elif "enum" in found:
            found["enum"].append(None)
            del found["type"]
        elif "type" in found:
            found["type"] = [found["type"], "null"]
        elif "anyOf" in found and null not in found["anyOf"]:
            found["anyOf"].append(null)
        return found

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        return {**super().typed_dict_schema(schema), "additionalProperties": False}


def description(defaults: Defaults) -> dict[str, Any]:
    """Return the OpenAPI document.

    Args:
        defaults: the server's defaults for fields that a request omits.
    """
    paths: dict[str, dict[str, Any]] = {}
    for e in ENDPOINTS:
        for i, (path, method) in enumerate((p, m) for p in e.paths for m in e.methods):
            operation = {"operationId": e.name + "Too" * i, **_operation(e, path)}
            paths.setdefault(path, {})[method.lower()] = operation
    key = {
        "type": "http",
        "scheme": "bearer",
        "description": "Required only if the server was started with API keys.",
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "TurboPilot",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {"schemas": _components(defaults), "securitySchemes": {"key": key}},
    }


def _components(defaults: Defaults) -> dict[str, Any]:
    """Return the schemas of all request bodies and responses."""
    types: list[Any] = [OpenAiError, PlainError]
    for e in ENDPOINTS:
        types += [e.body, e.answer]
        types += (t for kind in e.requests for t in (kind, kind.answer, kind.chunk))
    _, found = TypeAdapter.json_schemas(
        [(t.__name__, "validation", TypeAdapter(t)) for t in types if isinstance(t, type)],
        ref_template=_REF,
        schema_generator=_Schemas,
    )
    schemas: dict[str, Any] = found["$defs"]
    for schema in schemas.values():
        for field in schema.get("properties", {}).values():
            if option := field.pop(SERVER_DEFAULT, None):
                field["default"] = getattr(defaults, option)
    return schemas


def _any_of(*types: Any) -> dict[str, Any]:
    """Return a reference to the schemas of these types; several are joined by `anyOf`."""
    refs = [{"$ref": _REF.format(model=t.__name__)} for t in dict.fromkeys(types)]
    return refs[0] if len(refs) == 1 else {"anyOf": refs}


def _json(*types: Any, mimetype: str = "application/json") -> dict[str, Any]:
    return {mimetype: {"schema": _any_of(*types)}}


def _operation(e: Endpoint, path: str) -> dict[str, Any]:
    error = PlainError if plain_errors(path) else OpenAiError
    ok: dict[str, Any] = {"description": "The response."}
    answers = {} if e.refusal else {"200": ok}
    statuses = _ALWAYS | ({} if e.is_open else _KEYED) | (_COMPUTED if e.requests else {})
    statuses |= next((why for name, why in _ABSENT.items() if name in path), {})
    statuses |= _REFUSED if e.refusal else {}
    statuses |= _LOADED if e.body and issubclass(e.body, ModelRequest) else {}
    statuses |= {**_LOADED, **_ABSENT["{name}"]} if e.body is ModelChange else {}
    statuses |= _BUSY if e.answer is SlotsAnswer else _WATCHED if e.streams else {}
    for status, what in sorted(statuses.items()):
        answers[str(status)] = {"description": what, "content": _json(error)}
        if status in _HEADERS:
            name, about, schema = _HEADERS[status]
            header = {"required": True, "description": about, "schema": schema}
            answers[str(status)]["headers"] = {name: header}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {**_STRING, "minLength": 1}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": about, "schema": _STRING}
        for name, about in e.query
    ]
    operation: dict[str, Any] = {"tags": [e.tag], "summary": e.summary, "parameters": parameters}
    if bodies := e.requests or ((e.body,) if e.body else ()):
        example = {"example": bodies[0].example}
        operation["requestBody"] = {
            "required": True,
            "description": "Read as JSON; the Content-Type is ignored.",
            "content": {"application/json": {"schema": _any_of(*bodies), **example}},
        }
    if e.requests:
        parameters += _PARAMETERS
        truncated = {"description": _TRUNCATED, "schema": _STRING}
        ok |= {"headers": {"X-TurboPilot-Truncated": truncated}, "content": _computed(e, error)}
    elif e.streams:
        pieces = {"description": SSE.about, **_any_of(e.answer)}
        ok["content"] = {SSE.mimetype: {"x-itemSchema": pieces}}
    elif isinstance(e.answer, str):
        ok["content"] = {mimetype: {"schema": {}} for mimetype in e.answer.split(", ")}
    elif e.answer:
        ok["content"] = _json(e.answer)
    if e.answer is HealthAnswer:
        what = "The default model is loading or failed, or the server is shutting down."
        answers["503"] = {"description": what, "content": _json(HealthAnswer)}
    if e.is_open:
        operation["security"] = []
    return {**operation, "responses": answers}


def _computed(e: Endpoint, error: type) -> dict[str, Any]:
    """Return the content of a completion response, in JSON or as a stream.

    OpenAPI 3.1 cannot describe the chunks of a stream, and tools interpret a `schema` of a stream differently; hence
    `x-itemSchema`.
    """
    content = _json(*(kind.answer for kind in e.requests), mimetype=e.requests[0].mimetype)
    for kind in e.requests:
        if kind.framing:
            pieces = {"description": kind.framing.about, **_any_of(kind.chunk, error)}
            content[kind.framing.mimetype] = {"x-itemSchema": pieces}
    return content
