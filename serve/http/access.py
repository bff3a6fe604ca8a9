"""Each request's name, and its line in the log. Knows nothing of models or sockets."""

from __future__ import annotations

import logging
import re
import secrets
import time

from flask import Flask, Response, g, request

from serve.http.log_format import FIELDS, one_line, request_id
from serve.runner.generation import Generation

log = logging.getLogger("turbopilot.access")

REQUEST_ID_HEADER = "X-Request-Id"
# What a client calls its request is shown in logs and sent back: nothing long, and nothing that cannot be seen.
_NAME = re.compile(r"[!-~]{1,128}")


def choose_request_id(given: str) -> str:
    """The client's name of a request, where it is short and printable; else a random one."""
    return given if _NAME.fullmatch(given) else secrets.token_hex(8)


def count_tokens(generation: Generation) -> None:
    """Have the present request's line in the log say what this cost."""
    g.generation = generation


def register(app: Flask) -> None:
    """Name each request before anything else looks at it, and log it when its answer has ended."""

    @app.before_request
    def begin() -> None:
        g.began = time.monotonic()
        g.request_id = choose_request_id(request.headers.get(REQUEST_ID_HEADER, ""))
        request_id.set(g.request_id)

    @app.after_request
    def note(response: Response) -> Response:
        """Method, path, status, time, tokens: never a header (Authorization!), a query or a body."""
        name: str = g.get("request_id", "")
        began: float = g.get("began", time.monotonic())
        generation: Generation | None = g.get("generation")
        fields: dict[str, object] = {
            "method": request.method,
            "path": request.path,
            "status": response.status_code,
        }
        line = f"{request.method} {one_line(request.path)} {response.status_code}"

        def write() -> None:
            seconds = time.monotonic() - began
            fields["ms"] = round(1000 * seconds, 1)
            if generation:
                usage = generation.usage
                fields["prompt_tokens"] = usage.prompt_tokens
                fields["cached_tokens"] = usage.cached_tokens
                fields["completion_tokens"] = usage.completion_tokens
            extra = {"request_id": name, FIELDS: fields}
            log.info("%s %.0f ms", line, 1000 * seconds, extra=extra)

        response.call_on_close(write)  # a stream ends long after its headers
        response.headers[REQUEST_ID_HEADER] = name
        return response
