"""The Flask application."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Flask, Response, g, request

from serve.http import errors, request_log, request_times, views
from serve.http.body_codings import check_coding
from serve.http.editors_view import Editors, editors_view, no_editors
from serve.http.page import page_views
from serve.http.security import hooks
from serve.http.status_views import status_views
from serve.models import ModelPool
from serve.settings import MAX_BODY_BYTES, Defaults, SecurityOptions
from serve.shown_options import ShownOption
from serve.status.server_status import ServerStatus

# GitHub's servers send this header. Where Copilot's language server (1.472, 1.539) signs in at this server, it needs
# the header in each of these responses, also in that to /copilot_internal/user, which is 404.
GITHUB_HEADER = "X-GitHub-Request-Id"
COPILOT_PATHS = "/copilot_internal/"


def create_app(
    models: ModelPool,
    defaults: Defaults | None = None,
    security: SecurityOptions | None = None,
    shown: Sequence[ShownOption] = (),
    editors: Editors = no_editors,
) -> Flask:
    """Return the WSGI application.

    Args:
        models: the models to serve.
        defaults: defaults for fields that a request omits; None means the original TurboPilot's.
        security: access control; None allows every program on this machine.
        shown: the server's options, for `/status/settings`.
        editors: returns the settings of editors for this server, for its page.
    """
    defaults = defaults or Defaults()
    security = security or SecurityOptions()
    app = Flask("turbopilot", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.url_map.strict_slashes = False
    errors.register(app)
    status = ServerStatus(models, needs_key=bool(security.api_keys))
    request_log.register(app)  # first, so that refused requests are logged as well
    request_times.register(app, status.requests.add)
    hooks.register(app, security)
    app.before_request(
        lambda: check_coding(request.headers.get("Content-Encoding", ""), request.endpoint)
    )
    if security.copilot_request_id:
        app.after_request(_add_github_header)
    more = {
        **status_views(models, status, shown),
        **page_views(models.known[0].name, has_page=security.has_page),
        "statusEditors": editors_view(models, security, editors),
    }
    views.register(app, models, defaults, more)
    return app


def _add_github_header(response: Response) -> Response:
    if request.path.startswith(COPILOT_PATHS):
        response.headers[GITHUB_HEADER] = g.request_id
    return response
