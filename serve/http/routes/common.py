"""What the routes share: reading a body, answering JSON or a stream, who asks, noticing that a client left."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from flask import Response, g, request

from serve.api.fields import Fields, parse_body
from serve.api.rendering import Json, Rendering, Whole
from serve.http import prompt_log
from serve.http.access import count_tokens
from serve.http.channel import WHEN_GONE
from serve.http.errors import stream_error
from serve.http.sse import DONE, json_bytes, ndjson_line, sse_frame
from serve.models.service import Completion, CompletionService
from serve.request import Finished
from serve.runner.generation import ClientGone, ClientWatch, Generation
from turbopilot.base.errors import InvalidRequest

SESSION_HEADER = "X-TurboPilot-Session"
DEADLINE_HEADER = "X-TurboPilot-Deadline-Ms"


@dataclass(frozen=True, slots=True)
class Framing:
    """How a stream is cut into pieces.

    Attributes:
        mimetype: its Content-Type.
        piece: one piece.
        end: what comes after the last.
    """

    mimetype: str
    piece: Callable[[Json], bytes]
    end: bytes = b""


SSE = Framing("text/event-stream", sse_frame, DONE)
SSE_WITHOUT_DONE = Framing("text/event-stream", sse_frame)
NDJSON = Framing("application/x-ndjson", ndjson_line)


def json_body() -> Fields:
    """The request's JSON object, whatever its Content-Type says: curl's default is a form."""
    return parse_body(request.get_data(cache=False))


def respond(
    service: CompletionService,
    completion: Completion,
    render: Callable[[bool], Rendering],
    framing: Framing | None = None,
) -> Response:
    """Compute a completion and answer it.

    Args:
        service: the model's.
        completion: what is asked for.
        render: makes the answer's form, told whether something was given up so that it fits.
        framing: of a stream; None is an answer in one piece.
    """
    if framing is None:
        return respond_whole(service, completion, render)
    generation = _start(service, completion, whole=False)
    rendering = render(bool(generation.truncated))
    pieces = _pieces(generation, rendering, framing, client_watch(), request.path)
    response = Response(pieces, mimetype=framing.mimetype)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would collect the tokens
    response.call_on_close(generation.cancel)  # begun or not
    _tell_truncated(response, generation)
    return response


def respond_whole(
    service: CompletionService, completion: Completion, render: Callable[[bool], Whole]
) -> Response:
    """The same, in one piece."""
    generation = _start(service, completion, whole=True)
    answer = generation.collect(client_watch())
    prompt_log.note_answer(answer)
    return json_answer(render(bool(generation.truncated)).whole(answer), generation)


def _start(service: CompletionService, completion: Completion, *, whole: bool) -> Generation:
    prompt_log.note_prompts(service, completion)
    generation = service.start(_with_headers(completion), whole=whole)
    count_tokens(generation)
    return generation


def _pieces(
    generation: Generation, rendering: Rendering, framing: Framing, watch: ClientWatch, path: str
) -> Iterator[bytes]:
    """A stream. What breaks it is its last piece."""
    try:
        for index, event in prompt_log.watched(generation.events(watch)):
            if isinstance(event, Finished):
                yield framing.piece(rendering.end(index, event))
            else:
                yield from map(framing.piece, rendering.part(index, event))
    except ClientGone:
        return
    except Exception as e:
        yield framing.piece(stream_error(e, path))
        return
    yield from map(framing.piece, rendering.last(generation.usage))
    if framing.end:
        yield framing.end


def json_answer(
    value: Json | Sequence[Json], generation: Generation | None = None, status: int = 200
) -> Response:
    """Compact JSON; of a generation with what had to be given up so that it fits."""
    response = Response(json_bytes(value), status=status, mimetype="application/json")
    if generation:
        _tell_truncated(response, generation)
    return response


def client_watch() -> ClientWatch:
    """How to learn that the present request's client left: our own server tells, waitress can be asked."""
    environ = request.environ
    return ClientWatch(environ.get(WHEN_GONE), environ.get("waitress.client_disconnected"))


def _with_headers(completion: Completion) -> Completion:
    """The completion, with what the request's headers say of it.

    X-TurboPilot-Session: a new request of a session ends the one before it, as a new keystroke does.
    X-TurboPilot-Deadline-Ms: milliseconds after which the answer is of no use any more.

    Raises:
        InvalidRequest: the deadline is no number of milliseconds.
    """
    if name := request.headers.get(SESSION_HEADER, ""):
        completion = replace(completion, session=_session(name))
    if text := request.headers.get(DEADLINE_HEADER, ""):
        is_number = text.isascii() and text.isdecimal() and len(text) <= 10
        if not (is_number and 0 < int(text) <= 10**9):
            raise InvalidRequest(
                f"{DEADLINE_HEADER} must be a whole number of milliseconds above 0",
                param=DEADLINE_HEADER,
            )
        completion = replace(completion, deadline=int(text) / 1000)
    return completion


def _session(name: str) -> str:
    """The name, for this client alone: strangers who take the same name do not end each other's requests."""
    key = g.get("api_key") or request.headers.get("Authorization", "")
    caller = (request.remote_addr, key, name)
    return hashlib.sha256(repr(caller).encode()).hexdigest()


def _tell_truncated(response: Response, generation: Generation) -> None:
    if generation.truncated:
        response.headers["X-TurboPilot-Truncated"] = ", ".join(generation.truncated)
