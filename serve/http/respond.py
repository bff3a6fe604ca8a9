"""Views of the completion routes: parse a request, generate, and respond with JSON or a stream."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from flask import Response, g, request

from serve.api.body import read_json
from serve.api.dialect import NDJSON, Framing, Json, Rendering, json_bytes
from serve.api.endpoints import Endpoint
from serve.api.llama_tokenizer import ModelRequest
from serve.http import request_log
from serve.http.body_codings import decompressed
from serve.http.channel import WHEN_GONE
from serve.http.errors import stream_error
from serve.http.request_times import begin_load
from serve.models import ModelPool
from serve.models.completion import Completion
from serve.request_headers import DEADLINE_HEADER, PRIORITY_HEADER, SESSION_HEADER
from serve.runner.generation import Generation, WhenGone, stays
from serve.settings import Defaults
from turbopilot.base.errors import InvalidRequest


def json_answer(
    value: Json | Sequence[Json], status: int = 200, mimetype: str = "application/json"
) -> Response:
    """Return a response with compact JSON, on one line."""
    line = json_bytes(value) + (b"\n" if mimetype == NDJSON.mimetype else b"")
    return Response(line, status=status, mimetype=mimetype)


def completion_view(
    endpoint: Endpoint, models: ModelPool, defaults: Defaults
) -> Callable[..., Response]:
    """Return the view of an endpoint that generates completions."""

    def view(engine: str = "") -> Response:
        coding = request.headers.get("Content-Encoding", "")
        data = decompressed(request.get_data(cache=False), coding)
        asked = endpoint.read(read_json(data))
        completion = _with_headers(asked.completion(defaults))
        framing = asked.framing if asked.stream else None
        when_gone: WhenGone = request.environ.get(WHEN_GONE, stays)
        end_load = begin_load(engine or asked.model)
        with models.use(engine or asked.model, when_gone) as service:
            end_load(service.model.name)
            if (ready := asked.at_once(service)) is not None:
                return json_answer(ready, mimetype=asked.mimetype)
            completion = asked.fitted(completion, service)
            request_log.log_prompts(service, completion)
            generation = service.start(completion, whole=framing is None)
            request_log.count_tokens(generation)
            rendering = asked.rendering(asked, service, truncated=bool(generation.truncated))
            if framing:
                response = _stream(generation, rendering, framing, when_gone)
            else:
                answer = generation.collect(when_gone)
                request_log.log_answer(answer)
                response = json_answer(rendering.whole(answer), mimetype=asked.mimetype)
        if generation.truncated:
            response.headers["X-TurboPilot-Truncated"] = ", ".join(generation.truncated)
        return response

    return view


def model_view(asked_for: type[ModelRequest], models: ModelPool) -> Callable[..., Response]:
    """Return the view of a route that needs a loaded model, but no completion."""

    def view() -> Response:
        asked = asked_for.read(read_json(request.get_data(cache=False)))
        with models.use(asked.model, request.environ.get(WHEN_GONE, stays)) as service:
            return json_answer(asked.answer_of(service))

    return view


def _stream(
    generation: Generation, rendering: Rendering[Any], framing: Framing, when_gone: WhenGone
) -> Response:
    pieces = _pieces(generation, rendering, framing, when_gone, request.path)
    response = Response(pieces, mimetype=framing.mimetype)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # otherwise nginx would buffer the stream
    response.call_on_close(generation.cancel)  # also if the stream was never started
    return response


def _pieces(
    generation: Generation,
    rendering: Rendering[Any],
    framing: Framing,
    when_gone: WhenGone,
    path: str,
) -> Iterator[bytes]:
    """Yield the chunks of a stream. If generation fails, the last chunk is the error."""
    try:
        events = request_log.log_events(generation.events(when_gone))
        yield from map(framing.piece, rendering.chunks(events))
    except Exception as e:
        yield framing.piece(stream_error(e, path))
        return
    yield from map(framing.piece, rendering.last(generation.usage))
    if framing.end:
        yield framing.end


def _with_headers(completion: Completion) -> Completion:
    """Return the completion with the session, the deadline and the priority from the request's headers."""
    if name := request.headers.get(SESSION_HEADER, ""):
        completion = replace(completion, session=_session(name))
    if text := request.headers.get(DEADLINE_HEADER, ""):
        is_number = text.isascii() and text.isdecimal() and len(text) <= 10
        if not (is_number and 0 < int(text) <= 10**9):
            raise InvalidRequest(
                f"{DEADLINE_HEADER} must be a whole number of milliseconds from 1 to 1000000000",
                param=DEADLINE_HEADER,
            )
        completion = replace(completion, deadline=int(text) / 1000)
    if priority := request.headers.get(PRIORITY_HEADER, ""):
        if priority not in ("low", "normal"):
            raise InvalidRequest(f"{PRIORITY_HEADER} must be low or normal", param=PRIORITY_HEADER)
        completion = replace(completion, is_low=priority == "low")
    return completion


def _session(name: str) -> str:
    """Return a session name that is unique to this client, even if others use the same `name`."""
    key = g.get("api_key") or request.headers.get("Authorization", "")
    caller = (request.remote_addr, key, name)
    return hashlib.sha256(repr(caller).encode()).hexdigest()
