"""One table from exceptions to HTTP errors, in the caller's dialect."""

from __future__ import annotations

import logging
from typing import NamedTuple

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from serve.api.dialect import json_bytes
from serve.api.endpoints import plain_errors
from serve.runner.generation import ClientGone
from turbopilot.base.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    HostRefused,
    InvalidRequest,
    NoKvSlot,
    OriginRefused,
    Overloaded,
    Superseded,
    TurboPilotError,
    Unauthorized,
)

log = logging.getLogger("turbopilot.http")

# nginx's number. A client that left never reads it. One that superseded its own request can ignore it: unlike after
# 409 and 5xx, no SDK retries, which would end the newer request.
CLIENT_CLOSED_REQUEST = 499


class Fault(NamedTuple):
    """An error as OpenAI names it."""

    status: int
    type: str
    message: str
    param: str | None = None
    code: str | None = None


# The first class that fits decides; any other exception is a 500.
_TABLE: tuple[tuple[type[TurboPilotError], int, str, str | None], ...] = (
    (ContextLengthExceeded, 400, "invalid_request_error", "context_length_exceeded"),
    (InvalidRequest, 400, "invalid_request_error", None),
    (Unauthorized, 401, "invalid_request_error", "invalid_api_key"),
    (OriginRefused, 403, "invalid_request_error", "origin_not_allowed"),
    # Not 403, so that operators see at once which of the two it was. Source: RFC 9110, 15.5.20.
    (HostRefused, 421, "invalid_request_error", "host_not_allowed"),
    (Superseded, CLIENT_CLOSED_REQUEST, "superseded_error", "superseded"),
    (DeadlineExceeded, 504, "timeout_error", "deadline_exceeded"),
    (Overloaded, 503, "overloaded_error", "overloaded"),
    (NoKvSlot, 503, "overloaded_error", "no_kv_slot"),
    (TurboPilotError, 500, "server_error", None),
)


def fault_of(error: Exception) -> Fault:
    """Return what a client may read of an exception; an unexpected one reveals no details."""
    if isinstance(error, TurboPilotError):
        status, kind, code = next(row[1:] for row in _TABLE if isinstance(error, row[0]))
        param = error.param if isinstance(error, InvalidRequest) else None
        return Fault(status, kind, error.message, param, code)
    if isinstance(error, HTTPException) and error.code:
        kind = "invalid_request_error" if error.code < 500 else "server_error"
        return Fault(error.code, kind, f"{error.name}: {request.method} {request.path}")
    if isinstance(error, ClientGone):
        return Fault(CLIENT_CLOSED_REQUEST, "invalid_request_error", "the client left")
    return Fault(500, "server_error", "internal error; the server's log says more")


def error_body(fault: Fault, path: str) -> dict[str, object]:
    """The answer's JSON: `{"error": text}` for Hugging Face's and Ollama's clients, else OpenAI's form."""
    if plain_errors(path):
        return {"error": fault.message}
    return {
        "error": {
            "message": fault.message,
            "type": fault.type,
            "param": fault.param,
            "code": fault.code,
        }
    }


def stream_error(error: Exception, path: str) -> dict[str, object]:
    """Return the last frame of a stream that failed; log an unexpected exception."""
    fault = fault_of(error)
    if not isinstance(error, TurboPilotError):
        log.error("while streaming %s", path, exc_info=error)
    return error_body(fault, path)


def register(app: Flask) -> None:
    """Answer every error of the app in JSON, 404 and 405 included."""

    @app.errorhandler(Exception)
    def answer(error: Exception) -> Response:
        fault = fault_of(error)
        if fault.status == 500:
            log.error("while answering %s %s", request.method, request.path, exc_info=error)
        body = json_bytes(error_body(fault, request.path))
        response = Response(body, status=fault.status, mimetype="application/json")
        if isinstance(error, HTTPException):
            response.headers.extend((k, v) for k, v in error.get_headers() if k.lower() == "allow")
        if fault.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if fault.status == 503:
            after = error.retry_after if isinstance(error, Overloaded) else 1
            response.headers["Retry-After"] = str(after)
        if fault.status == 504:  # the caller has no time left: OpenAI's SDKs heed this
            response.headers["X-Should-Retry"] = "false"
        return response
