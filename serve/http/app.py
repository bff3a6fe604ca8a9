"""The Flask app: routes, errors and the access log put together. Knows nothing of sockets or llama.cpp."""

from __future__ import annotations

import logging
import time

from flask import Flask, Response, g, request

from serve.http import errors
from serve.http.routes import copilot, description, generate, llama_cpp, openai, ops, tabby
from serve.models import Models
from serve.settings import MAX_BODY_BYTES, Defaults

access_log = logging.getLogger("turbopilot.access")


def create_app(models: Models, defaults: Defaults | None = None) -> Flask:
    """The WSGI application.

    Args:
        models: answer the completions.
        defaults: for requests that do not say; None is the original TurboPilot's.
    """
    defaults = defaults or Defaults()
    app = Flask("turbopilot", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.url_map.strict_slashes = False
    errors.register(app)
    for blueprint in (
        openai.blueprint(models, defaults),
        llama_cpp.blueprint(models, defaults),
        generate.blueprint(models, defaults),
        copilot.blueprint(),
        tabby.blueprint(models),
        ops.blueprint(models),
        description.blueprint(defaults),
    ):
        app.register_blueprint(blueprint)

    @app.before_request
    def begin() -> None:
        g.began = time.monotonic()

    @app.after_request
    def note(response: Response) -> Response:
        """Method, path, status, time: never a header (Authorization!), a query or a body."""
        path = request.path.encode("unicode_escape").decode()  # no client writes lines of our log
        line = f"{request.method} {path} {response.status_code}"
        began: float = g.get("began", time.monotonic())

        def write() -> None:
            access_log.info("%s %.0f ms", line, 1000 * (time.monotonic() - began))

        response.call_on_close(write)  # a stream ends long after its headers
        return response

    return app
