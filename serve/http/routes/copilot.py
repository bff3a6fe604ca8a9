"""What GitHub Copilot's plugins ask before they ask for completions."""

from __future__ import annotations

import time

from flask import Blueprint, Response, g

from serve.http.routes.common import json_answer

# The plugin asks again after `refresh_in` seconds. Source: the original TurboPilot's answer.
LIFETIME_SECONDS = 1800
REFRESH_SECONDS = 900
# GitHub's servers mark their answers with it; the newest language servers take a token from such an answer alone.
GITHUB_HEADER = "X-GitHub-Request-Id"


def blueprint(*, request_id: bool = False) -> Blueprint:
    """The token route.

    There is no account here: without API keys any caller gets the same token, which opens nothing. With them the
    caller gets back the very key that let it in: the plugin bears the token it got in all later requests.

    Args:
        request_id: answer with GITHUB_HEADER.
    """
    routes = Blueprint("copilot", __name__)

    @routes.get("/copilot_internal/v2/token")
    def token() -> Response:
        expires = int(time.time()) + LIFETIME_SECONDS
        key: str = g.get("api_key", "1")
        response = json_answer({"token": key, "expires_at": expires, "refresh_in": REFRESH_SECONDS})
        response.headers["Cache-Control"] = "no-store"
        if request_id:
            response.headers[GITHUB_HEADER] = g.request_id
        return response

    return routes
