"""What the routes share: reading a body, answering JSON, who asks, noticing that a client left."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

from flask import Response, request

from serve.generation import ClientWatch, Generation
from serve.http.fields import Fields, parse_body
from serve.http.sse import compact_json
from serve.service import Completion
from turbopilot.errors import InvalidRequest

SESSION_HEADER = "X-TurboPilot-Session"
DEADLINE_HEADER = "X-TurboPilot-Deadline-Ms"


def json_body() -> Fields:
    """The request's JSON object, whatever its Content-Type says: curl's default is a form."""
    return parse_body(request.get_data(cache=False))


def with_headers(completion: Completion) -> Completion:
    """The completion, with what the request's headers say of it.

    X-TurboPilot-Session: a new request of a session ends the one before it, as a new keystroke does.
    X-TurboPilot-Deadline-Ms: milliseconds after which the answer is of no use any more.

    Raises:
        InvalidRequest: the deadline is no number of milliseconds.
    """
    if name := request.headers.get(SESSION_HEADER, ""):
        completion = replace(completion, session=_session(name))
    if text := request.headers.get(DEADLINE_HEADER, ""):
        if not (text.isascii() and text.isdecimal() and 0 < int(text[:12]) <= 10**9):
            raise InvalidRequest(
                f"{DEADLINE_HEADER} must be a whole number of milliseconds above 0",
                param=DEADLINE_HEADER,
            )
        completion = replace(completion, deadline=int(text) / 1000)
    return completion


def _session(name: str) -> str:
    """The name, for this client alone: strangers who take the same name do not end each other's requests."""
    caller = (request.remote_addr, request.headers.get("Authorization", ""), name)
    return hashlib.sha256(repr(caller).encode()).hexdigest()


def json_answer(
    value: Mapping[str, object], generation: Generation | None = None, *, status: int = 200
) -> Response:
    """Compact JSON."""
    response = Response(compact_json(value), status=status, mimetype="application/json")
    if generation:
        _tell_truncated(response, generation)
    return response


def stream_answer(frames: Iterator[bytes], generation: Generation, mimetype: str) -> Response:
    """A 200 whose body is sent frame by frame; closing it frees the engine, begun or not."""
    response = Response(frames, mimetype=mimetype)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would collect the tokens
    response.call_on_close(generation.cancel)
    _tell_truncated(response, generation)
    return response


def client_watch() -> ClientWatch:
    """How to learn that the present request's client left: our own server tells, waitress can be asked."""
    environ = request.environ
    return ClientWatch(
        environ.get("turbopilot.when_gone"), environ.get("waitress.client_disconnected")
    )


def _tell_truncated(response: Response, generation: Generation) -> None:
    if generation.truncated:
        response.headers["X-TurboPilot-Truncated"] = ", ".join(generation.truncated)
