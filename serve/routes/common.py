"""What the routes share: reading a body, answering JSON, noticing that a client left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

from flask import Response, request

from serve.schemas import Fields, parse_body
from serve.service import Generation
from serve.sse import compact_json


def json_body() -> Fields:
    """The request's JSON object, whatever its Content-Type says: curl's default is a form."""
    return parse_body(request.get_data(cache=False))


def json_answer(value: Mapping[str, object], generation: Generation | None = None) -> Response:
    """A 200 with compact JSON."""
    response = Response(compact_json(value), mimetype="application/json")
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


def client_watch() -> Callable[[], bool]:
    """A function that says whether the present request's client has left; waitress provides it."""
    watch = request.environ.get("waitress.client_disconnected")
    return cast(Callable[[], bool], watch) if watch else lambda: False


def _tell_truncated(response: Response, generation: Generation) -> None:
    if generation.truncated:
        response.headers["X-TurboPilot-Truncated"] = ", ".join(generation.truncated)
