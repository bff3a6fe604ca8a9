"""What one call takes and answers, errors included, in the caller's dialect. Pure; knows no single dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from serve.api.openapi.schema import STRING, Schema, one_of, or_null, record, ref

Content: TypeAlias = Mapping[str, Mapping[str, object]]
Operation: TypeAlias = dict[str, object]

OPENAI_ERROR: Final = "Error"
PLAIN_ERROR: Final = "PlainError"
ERRORS: Final[dict[str, Schema]] = {
    OPENAI_ERROR: record(
        {
            "error": record(
                {
                    "message": STRING,
                    "type": STRING,
                    "param": {**or_null(STRING), "description": "The field that is at fault."},
                    "code": or_null(STRING),
                }
            )
        },
        what="What went wrong, as OpenAI says it.",
    ),
    PLAIN_ERROR: record(
        {"error": STRING}, what="What went wrong, as Hugging Face and Ollama say it."
    ),
}

# What anybody may be told, before it is looked at what was asked.
_ALWAYS: Final = {
    400: "It is no HTTP, or no JSON object, or a field cannot be used.",
    403: "Asked from a web page that may not.",
    405: "There is no such method here.",
    413: "The body is too large.",
    421: "The Host is not one that this server goes by.",
    431: "The headers are too large.",
    500: "A bug. The server's log says more.",
}
_UNAUTHORIZED: Final = {401: "An API key is wanted, and this is none."}
# What the engine may say beside.
_COMPUTED: Final = {
    499: "A newer request of the same session took the place of this one. Not to be tried again.",
    503: "Too many wait, or the server is ending. Try again after the seconds in `Retry-After`.",
    504: "The deadline was over before there was anything to show.",
}
_HEADERS: Final[dict[int, dict[str, object]]] = {
    405: {
        "Allow": {"schema": STRING, "required": True, "description": "The methods that there are."}
    },
    503: {
        "Retry-After": {
            "schema": {"type": "integer", "minimum": 1},
            "required": True,
            "description": "Seconds.",
        }
    },
    504: {
        "X-Should-Retry": {
            "schema": one_of("false"),
            "required": True,
            "description": "OpenAI's SDKs heed it.",
        }
    },
}
TRUNCATED: Final[dict[str, object]] = {
    "X-TurboPilot-Truncated": {
        "schema": STRING,
        "description": "What was given up so that it fits: parts of prompt, input_extra, max_tokens.",
    }
}
# Headers that every completion heeds.
PARAMETERS: Final[list[dict[str, object]]] = [
    {
        "name": "X-TurboPilot-Session",
        "in": "header",
        "description": "A new request of a session ends the one before it, as a new keystroke does. Any name.",
        "schema": STRING,
    },
    {
        "name": "X-TurboPilot-Deadline-Ms",
        "in": "header",
        "description": "As `deadline_ms`, before which it goes.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10**9},
    },
]


@dataclass(frozen=True, slots=True)
class Chapter:
    """What one dialect adds to the document.

    Attributes:
        tag: its name.
        about: whose it is.
        paths: by path and method.
        schemas: by the names that `ref` knows.
    """

    tag: str
    about: str
    paths: Mapping[str, Mapping[str, Operation]]
    schemas: Mapping[str, Schema]


def json_of(schema: Schema) -> Content:
    """An answer in JSON."""
    return {"application/json": {"schema": schema}}


def stream_of(mimetype: str, piece: Schema, error: str, what: str) -> Content:
    """An answer as it is generated. A stream that breaks ends with an error.

    OpenAPI 3.1 has no word for the pieces of a stream, and readers differ in what a `schema` would mean of it.

    Args:
        mimetype: its Content-Type.
        piece: one piece of it.
        error: the dialect's.
        what: how it is cut into pieces, and how it ends.
    """
    return {mimetype: {"x-itemSchema": {"description": what, "anyOf": [piece, ref(error)]}}}


def asks(
    name: str,
    what: str,
    answer: Content,
    *,
    parameters: Sequence[Mapping[str, object]] = (),
    error: str = OPENAI_ERROR,
    is_open: bool = False,
    more: Mapping[str, object] | None = None,
) -> Operation:
    """A call that computes nothing.

    Args:
        name: unique.
        what: it is for.
        answer: when all is well; nothing is an empty body.
        parameters: in the path.
        error: the dialect's.
        is_open: whether it needs no API key, where others do.
        more: answers of its own, by status.
    """
    faults = _ALWAYS if is_open else _ALWAYS | _UNAUTHORIZED
    operation: Operation = {
        "operationId": name,
        "summary": what,
        "responses": {
            "200": {
                "description": "What was asked for.",
                **({"content": answer} if answer else {}),
            },
            **_answers(faults, error),
            **(more or {}),
        },
    }
    if parameters:
        operation["parameters"] = list(parameters)
    if is_open:
        operation["security"] = []
    return operation


def computes(
    name: str,
    what: str,
    request: Schema,
    example: Mapping[str, object],
    answer: Content,
    *,
    parameters: Sequence[Mapping[str, object]] = (),
    error: str = OPENAI_ERROR,
) -> Operation:
    """A call that is answered by the model.

    Args:
        name: unique.
        what: it is for.
        request: the body.
        example: one.
        answer: when all is well.
        parameters: in the path.
        error: the dialect's.
    """
    return {
        "operationId": name,
        "summary": what,
        "parameters": [*parameters, *PARAMETERS],
        "requestBody": {
            "required": True,
            "description": "Read as JSON, whatever its Content-Type says.",
            "content": {"application/json": {"schema": request, "example": dict(example)}},
        },
        "responses": {
            "200": {"description": "What was asked for.", "headers": TRUNCATED, "content": answer},
            **_answers(_ALWAYS | _UNAUTHORIZED | _COMPUTED, error),
        },
    }


def _answers(reasons: Mapping[int, str], error: str) -> dict[str, object]:
    return {str(status): _answer(status, reasons[status], error) for status in sorted(reasons)}


def _answer(status: int, reason: str, error: str) -> dict[str, object]:
    headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
    return {"description": reason, **headers, "content": json_of(ref(error))}
