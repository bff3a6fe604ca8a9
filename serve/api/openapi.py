"""`/openapi.json`: the table of endpoints and their models as one OpenAPI document."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema
from typing_extensions import TypedDict

from serve.api.endpoints import ENDPOINTS, TAGS, Endpoint, HealthAnswer, plain_errors
from serve.api.sampling import SERVER_DEFAULT
from serve.settings import MAX_BODY_BYTES, Defaults
from turbopilot.base.version import __version__

_REF: Final = "#/components/schemas/{model}"
_ABOUT: Final = f"""Code completions from a model on this machine, in the dialects that editors speak.

- Unknown fields are ignored, null means absent, and any model name is accepted. A field of the wrong type or out of \
range is refused with status 400 and named.
- A body is JSON in UTF-8 of less than {MAX_BODY_BYTES // 2**20} MiB, whatever its Content-Type says.
- A prompt that is too long loses what is farthest from the cursor, and an answer ends where the context does; both \
are reported, and are not errors.
- A client that closes its connection cancels its request.
- Pieces of a stream are described by `x-itemSchema`; a stream that fails ends with an error as its last piece."""


class ErrorDetails(TypedDict):
    """`param` is the field that is at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiError(TypedDict):
    """An error in OpenAI's form."""

    error: ErrorDetails


class PlainError(TypedDict):
    """An error in Hugging Face's and Ollama's form."""

    error: str


# What anybody may get, before the request itself is looked at.
_ALWAYS: Final = {
    400: "Not HTTP, or not a JSON object, or a field cannot be used.",
    403: "Sent from a web page that is not allowed.",
    405: "The method is not supported here.",
    413: "The body is too large.",
    421: "The Host is not a name of this server.",
    431: "The headers are too large.",
    500: "A bug. The server's log says more.",
}
_KEYED: Final = {401: "An API key is required, and this is none of them."}
# What the engine may answer.
_COMPUTED: Final = {
    499: "A newer request of the same session took the place of this one. Do not retry.",
    503: "Too many requests wait, or the server is shutting down. Retry after the seconds in `Retry-After`.",
    504: "The deadline passed before there was any text.",
}


_STRING: Final = {"type": "string"}
_HEADERS: Final = {
    405: ("Allow", "The methods that are supported.", _STRING),
    503: ("Retry-After", "Seconds.", {"type": "integer", "minimum": 1}),
    504: ("X-Should-Retry", "OpenAI's SDKs obey it.", {"enum": ["false"]}),
}
_TRUNCATED: Final = "What was given up so that it fits: parts of prompt, input_extra, max_tokens."
_PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": "X-TurboPilot-Session",
        "in": "header",
        "description": "A new request of a session, of any name, ends the one before it, as a new keystroke does.",
        "schema": _STRING,
    },
    {
        "name": "X-TurboPilot-Deadline-Ms",
        "in": "header",
        "description": "As `deadline_ms`, over which it takes precedence.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10**9},
    },
]


class _Schemas(GenerateJsonSchema):
    """A request's fields that may be absent may be null, and an answer has no other fields than these."""

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
    """The document.

    Args:
        defaults: the server's, for fields that a request leaves out.
    """
    paths: dict[str, dict[str, Any]] = {}
    for e in ENDPOINTS:
        for i, (path, method) in enumerate((p, m) for p in e.paths for m in e.methods):
            operation = {"operationId": e.name + "Too" * i, **_operation(e, path)}
            paths.setdefault(path, {})[method.lower()] = operation
    key = {
        "type": "http",
        "scheme": "bearer",
        "description": "Required only if the server was started with keys.",
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
    """The schemas of all bodies and answers."""
    types: list[Any] = [OpenAiError, PlainError]
    for e in ENDPOINTS:
        types += [e.answer, *(t for kind in e.requests for t in (kind, kind.answer, kind.chunk))]
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
    """A reference to the schema of a type, or to several."""
    refs = [{"$ref": _REF.format(model=t.__name__)} for t in dict.fromkeys(types)]
    return refs[0] if len(refs) == 1 else {"anyOf": refs}


def _json(*types: Any) -> dict[str, Any]:
    return {"application/json": {"schema": _any_of(*types)}}


def _operation(e: Endpoint, path: str) -> dict[str, Any]:
    error = PlainError if plain_errors(path) else OpenAiError
    ok: dict[str, Any] = {"description": "What was asked for."}
    answers = {"200": ok}
    statuses = _ALWAYS | ({} if e.is_open else _KEYED) | (_COMPUTED if e.requests else {})
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
    operation: dict[str, Any] = {"tags": [e.tag], "summary": e.summary, "parameters": parameters}
    if e.requests:
        parameters += _PARAMETERS
        example = {"example": e.requests[0].example}
        operation["requestBody"] = {
            "required": True,
            "description": "Read as JSON, whatever its Content-Type says.",
            "content": {"application/json": {"schema": _any_of(*e.requests), **example}},
        }
        truncated = {"description": _TRUNCATED, "schema": _STRING}
        ok |= {"headers": {"X-TurboPilot-Truncated": truncated}, "content": _computed(e, error)}
    elif isinstance(e.answer, str):
        ok["content"] = {e.answer: {"schema": {}}}
    elif e.answer:
        ok["content"] = _json(e.answer)
    if e.answer is HealthAnswer:
        what = "It is loading, or takes no new requests."
        answers["503"] = {"description": what, "content": _json(HealthAnswer)}
    if e.is_open:
        operation["security"] = []
    return {**operation, "responses": answers}


def _computed(e: Endpoint, error: type) -> dict[str, Any]:
    """An answer in JSON or as a stream.

    OpenAPI 3.1 has no word for the pieces of a stream, and readers differ in what a `schema` would mean of it.
    """
    content = _json(*(kind.answer for kind in e.requests))
    for kind in e.requests:
        if kind.framing:
            pieces = {"description": kind.framing.about, **_any_of(kind.chunk, error)}
            content[kind.framing.mimetype] = {"x-itemSchema": pieces}
    return content
