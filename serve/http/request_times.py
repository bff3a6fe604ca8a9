"""Recording of finished completion requests: their times and tokens, never their text."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from flask import Flask, Response, g, request

from serve.api.endpoints import ENDPOINTS
from serve.api.status import RequestEnd
from serve.request_headers import PRIORITY_HEADER
from serve.runner.generation import Generation
from serve.status.client_name import client_name
from serve.status.request_times import FinishedRequest, end_of

_COMPLETIONS: Final = frozenset(e.name for e in ENDPOINTS if e.requests)
# Requests that the access checks refuse: any program can send many of them.
_STRANGERS: Final = (401, 403, 421)


def begin_load(model: str) -> Callable[[str], None]:
    """Count the time until the returned function is called as that of loading; it takes the loaded model's name.

    Args:
        model: name of the model in the request.
    """
    g.model, g.load_began, g.load = model, time.monotonic(), None

    def end(name: str) -> None:
        g.model, g.load = name, time.monotonic() - g.load_began

    return end


def register(app: Flask, record: Callable[[FinishedRequest], None]) -> None:
    """Call `record` for each completion request when its response and all of its completions have ended."""

    @app.after_request
    def note(response: Response) -> Response:
        status = response.status_code
        if request.endpoint not in _COMPLETIONS or status in _STRANGERS:
            return response
        known = FinishedRequest(
            g.request_id,
            0.0,
            request.path,
            client_name(request.headers.get("User-Agent", "")),
            g.get("model", ""),
            status,
            _end(status),
            0.0,
            _load_seconds(),
            is_low=request.headers.get(PRIORITY_HEADER) == "low",
        )
        generation: Generation | None = g.get("generation")
        if generation or status >= 400:
            began: float = g.began
            response.call_on_close(lambda: _close(known, generation, began, record))
        return response


def _load_seconds() -> float:
    """Return the seconds that the current request has waited for its model; 0 if it has not asked for one."""
    if "load_began" not in g:
        return 0.0
    return time.monotonic() - g.load_began if g.load is None else float(g.load)


def _end(status: int) -> RequestEnd:
    """Return why a request ended that reached no engine."""
    return "cancelled" if status == 499 else "error" if status == 500 else "refused"


def _close(
    known: FinishedRequest,
    generation: Generation | None,
    began: float,
    record: Callable[[FinishedRequest], None],
) -> None:
    closed = replace(known, time=time.time(), total=time.monotonic() - began)
    if generation is None:
        record(closed)
        return

    def finish() -> None:
        ended = end_of(generation.ends.lasts)
        record(
            replace(
                closed,
                reason=ended,
                usage=generation.usage,
                inbox=generation.inbox_seconds,
                n_ahead=generation.n_ahead,
            )
        )

    # The engine may not have noticed yet that the client has gone.
    generation.ends.when_all(finish)
