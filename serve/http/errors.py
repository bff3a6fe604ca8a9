"""Conversion of exceptions to HTTP errors in the client's API dialect."""

from __future__ import annotations

import logging
from typing import NamedTuple

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from serve.api.dialect import json_bytes
from serve.api.endpoints import plain_errors
from serve.runner.generation import ClientGone
from turbopilot.base.errors import (
    AdaptersFixed,
    ContextLengthExceeded,
    DeadlineExceeded,
    DeviceLost,
    HostRefused,
    InvalidRequest,
    ModelChanged,
    NoKvSlot,
    NotSupported,
    OriginRefused,
    Overloaded,
    Superseded,
    TurboPilotError,
    Unauthorized,
    UnknownModel,
    UnsupportedEncoding,
    UnusableLogits,
    UpstreamFailed,
)

log = logging.getLogger("turbopilot.http")

# nginx's status for a client that disconnected, which rarely reads it. It is also the status of a superseded request,
# because SDKs retry after 409 and 5xx, and such a retry would end the newer request.
CLIENT_CLOSED_REQUEST = 499


class Fault(NamedTuple):
    """An error with the fields of OpenAI's API."""

    status: int
    type: str
    message: str
    param: str | None = None
    code: str | None = None


# The first matching class decides; any other exception is a 500.
_TABLE: tuple[tuple[type[TurboPilotError], int, str, str | None], ...] = (
    (ContextLengthExceeded, 400, "invalid_request_error", "context_length_exceeded"),
    (UnknownModel, 404, "invalid_request_error", "model_not_found"),
    (InvalidRequest, 400, "invalid_request_error", None),
    (UnsupportedEncoding, 415, "invalid_request_error", "unsupported_content_encoding"),
    (NotSupported, 501, "not_supported_error", "not_supported"),
    (Unauthorized, 401, "invalid_request_error", "invalid_api_key"),
    (AdaptersFixed, 403, "invalid_request_error", "lora_switch_not_allowed"),
    (OriginRefused, 403, "invalid_request_error", "origin_not_allowed"),
    # Not 403, so that it differs from a refused origin. Source: RFC 9110, 15.5.20.
    (HostRefused, 421, "invalid_request_error", "host_not_allowed"),
    (Superseded, CLIENT_CLOSED_REQUEST, "superseded_error", "superseded"),
    (DeadlineExceeded, 504, "timeout_error", "deadline_exceeded"),
    (Overloaded, 503, "overloaded_error", "overloaded"),
    (ModelChanged, 503, "server_error", "model_changed"),
    (DeviceLost, 503, "server_error", "device_lost"),
    (UpstreamFailed, 503, "server_error", "upstream_failed"),
    (UnusableLogits, 503, "server_error", "unusable_logits"),
    (NoKvSlot, 503, "overloaded_error", "no_kv_slot"),
    (TurboPilotError, 500, "server_error", None),
)


def fault_of(error: Exception) -> Fault:
    """Return the error that a client sees for an exception. Unexpected exceptions reveal no details."""
    if isinstance(error, TurboPilotError):
        status, kind, code = next(row[1:] for row in _TABLE if isinstance(error, row[0]))
        param = error.param if isinstance(error, InvalidRequest) else None
        return Fault(status, kind, error.message, param, code)
    if isinstance(error, HTTPException) and error.code:
        kind = "invalid_request_error" if error.code < 500 else "server_error"
        return Fault(error.code, kind, f"{error.name}: {request.method} {request.path}")
    if isinstance(error, ClientGone):
        # Read only by a client that still receives, although it closed its sending side.
        message = "cancelled: the client closed its sending side before the response (nc: omit -N)"
        return Fault(CLIENT_CLOSED_REQUEST, "invalid_request_error", message)
    return Fault(500, "server_error", "internal error; see the server's log for details")


def error_body(fault: Fault, path: str) -> dict[str, object]:
    """Return the JSON of an error response: `{"error": text}` for Hugging Face and Ollama, else OpenAI's format."""
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
    """Return the JSON of the last chunk of a failed stream; log unexpected exceptions."""
    fault = fault_of(error)
    if not isinstance(error, TurboPilotError | ClientGone):
        log.error("unexpected error while streaming %s", path, exc_info=error)
    return error_body(fault, path)


def register(app: Flask) -> None:
    """Add an error handler that returns all errors as JSON, including 404 and 405."""

    @app.errorhandler(Exception)
    def answer(error: Exception) -> Response:
        fault = fault_of(error)
        if fault.status == 500:
            unexpected = None if isinstance(error, TurboPilotError) else error
            log.error("%s %s: %s", request.method, request.path, error, exc_info=unexpected)
        body = json_bytes(error_body(fault, request.path))
        response = Response(body, status=fault.status, mimetype="application/json")
        if isinstance(error, HTTPException):
            response.headers.extend((k, v) for k, v in error.get_headers() if k.lower() == "allow")
        if fault.status == 415:
            response.headers["Accept-Encoding"] = "identity"  # RFC 9110, 15.5.16
        if fault.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if fault.status == 503:
            after = error.retry_after if isinstance(error, Overloaded) else 1
            response.headers["Retry-After"] = str(after)
        # Keeps OpenAI's SDKs from retrying: the client's time is over, or the same error would follow.
        if fault.status in (501, 504) or isinstance(error, ModelChanged | UnusableLogits):
            response.headers["X-Should-Retry"] = "false"
        return response
