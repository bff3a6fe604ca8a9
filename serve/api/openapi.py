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
    """What went wrong, in OpenAI's form."""

    error: ErrorDetails


class PlainError(TypedDict):
    """What went wrong, in Hugging Face's and Ollama's form."""

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


def _header(what: str, **schema: Any) -> dict[str, Any]:
    return {"description": what, "schema": schema}


_HEADERS: Final = {
    405: {"Allow": _header("The methods that are supported.", type="string")},
    503: {"Retry-After": _header("Seconds.", type="integer", minimum=1)},
    504: {"X-Should-Retry": _header("OpenAI's SDKs obey it.", enum=["false"])},
}
_TRUNCATED: Final = _header(
    "What was given up so that it fits: parts of prompt, input_extra, max_tokens.", type="string"
)
_SESSION: Final = _header(
    "A new request of a session ends the one before it, as a new keystroke does. Any name.",
    type="string",
)
_DEADLINE: Final = _header(
    "As `deadline_ms`, over which it takes precedence.", type="integer", minimum=1, maximum=10**9
)


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


class _Types:
    """The types of all bodies and answers, as JSON schemas.

    Args:
        defaults: the server's, for fields that a request leaves out.
    """

    def __init__(self, defaults: Defaults) -> None:
        types: list[Any] = [OpenAiError, PlainError]
        for e in ENDPOINTS:
            types += [
                e.answer,
                *(t for kind in e.requests for t in (kind, kind.answer, kind.chunk)),
            ]
        self._schemas, rest = TypeAdapter.json_schemas(
            [
                (repr(t), "validation", TypeAdapter(t))
                for t in dict.fromkeys(types)
                if not isinstance(t, str)
            ],
            ref_template="#/components/schemas/{model}",
            schema_generator=_Schemas,
        )
        self.components = rest["$defs"]
        for schema in self.components.values():
            for field in schema.get("properties", {}).values():
                if option := field.pop(SERVER_DEFAULT, None):
                    field["default"] = getattr(defaults, option)

    def any_of(self, *types: Any) -> dict[str, Any]:
        """A schema that refers to one of the components, or to several."""
        found = [self._schemas[repr(t), "validation"] for t in types]
        return found[0] if len(found) == 1 else {"anyOf": found}

    def json(self, *types: Any) -> dict[str, Any]:
        """The content of a JSON answer."""
        return {"application/json": {"schema": self.any_of(*types)}}


def description(defaults: Defaults) -> dict[str, Any]:
    """The document.

    Args:
        defaults: the server's, for fields that a request leaves out.
    """
    types = _Types(defaults)
    paths: dict[str, dict[str, Any]] = {}
    for e in ENDPOINTS:
        for i, (path, method) in enumerate((p, m) for p in e.paths for m in e.methods):
            operation = {"operationId": e.name + "Too" * i, **_operation(e, path, types)}
            paths.setdefault(path, {})[method.lower()] = operation
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
        "components": {
            "schemas": types.components,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Required only if the server was started with keys.",
                }
            },
        },
    }


def _operation(e: Endpoint, path: str, types: _Types) -> dict[str, Any]:
    error = PlainError if plain_errors(path) else OpenAiError
    statuses = _ALWAYS | ({} if e.is_open else _KEYED) | (_COMPUTED if e.requests else {})
    answers: dict[str, Any] = {"200": {"description": "What was asked for."}}
    for status, what in sorted(statuses.items()):
        answers[str(status)] = {"description": what, "content": types.json(error)}
        if status in _HEADERS:
            ((name, header),) = _HEADERS[status].items()
            answers[str(status)]["headers"] = {name: {**header, "required": True}}
    operation: dict[str, Any] = {"tags": [e.tag], "summary": e.summary, "responses": answers}
    name_of_model = _header("Any name.", type="string", minLength=1)
    operation["parameters"] = [
        {"name": name, "in": "path", "required": True, **name_of_model}
        for name in re.findall(r"{(\w+)}", path)
    ]
    if e.requests:
        operation["parameters"] += [
            {"name": "X-TurboPilot-Session", "in": "header", **_SESSION},
            {"name": "X-TurboPilot-Deadline-Ms", "in": "header", **_DEADLINE},
        ]
        content: dict[str, Any] = types.json(*e.requests)
        content["application/json"]["example"] = e.requests[0].example
        operation["requestBody"] = {
            "required": True,
            "description": "Read as JSON, whatever its Content-Type says.",
            "content": content,
        }
        answers["200"]["headers"] = {"X-TurboPilot-Truncated": _TRUNCATED}
        answers["200"]["content"] = _computed(e, error, types)
    elif isinstance(e.answer, str):
        answers["200"]["content"] = {e.answer: {"schema": {"type": "string"}}}
    elif e.answer:
        answers["200"]["content"] = types.json(e.answer)
    if e.answer is HealthAnswer:
        what = "It is loading, or takes no new requests."
        answers["503"] = {"description": what, "content": types.json(HealthAnswer)}
    if e.is_open:
        operation["security"] = []
    return operation


def _computed(e: Endpoint, error: Any, types: _Types) -> dict[str, Any]:
    """An answer in JSON or as a stream.

    OpenAPI 3.1 has no word for the pieces of a stream, and readers differ in what a `schema` would mean of it.
    """
    content = types.json(*dict.fromkeys(kind.answer for kind in e.requests))
    for kind in e.requests:
        if kind.framing:
            pieces = {"description": kind.framing.about, **types.any_of(kind.chunk, error)}
            content[kind.framing.mimetype] = {"x-itemSchema": pieces}
    return content
