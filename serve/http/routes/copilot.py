"""What GitHub Copilot's plugins ask before they ask for completions."""

from __future__ import annotations

import time

from flask import Blueprint, Response

from serve.http.routes.common import json_answer

# The plugin asks again after `refresh_in` seconds. Source: the original TurboPilot's answer.
LIFETIME_SECONDS = 1800
REFRESH_SECONDS = 900


def blueprint() -> Blueprint:
    """The token route. There is no account here: any caller gets the same token, which opens nothing."""
    routes = Blueprint("copilot", __name__)

    @routes.get("/copilot_internal/v2/token")
    def token() -> Response:
        expires = int(time.time()) + LIFETIME_SECONDS
        return json_answer({"token": "1", "expires_at": expires, "refresh_in": REFRESH_SECONDS})

    return routes
