"""Each request's id, and its line in the access log."""

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
# A client's request id is logged and sent back, so it must be short and printable.
_NAME = re.compile(r"[!-~]{1,128}")


def choose_request_id(given: str) -> str:
    """Return the client's id if it is short and printable, else a random one."""
    return given if _NAME.fullmatch(given) else secrets.token_hex(8)


def count_tokens(generation: Generation) -> None:
    """Log the token counts of this generation with the current request."""
    g.generation = generation


def register(app: Flask) -> None:
    """Give each request an id before anything else sees it, and log it when its answer has ended."""

    @app.before_request
    def begin() -> None:
        g.began = time.monotonic()
        g.request_id = choose_request_id(request.headers.get(REQUEST_ID_HEADER, ""))
        request_id.set(g.request_id)

    @app.after_request
    def note(response: Response) -> Response:
        """Log method, path, status, time and tokens; never a header (Authorization!), query or body."""
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
