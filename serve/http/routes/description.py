"""What the server speaks, told to tools: an OpenAPI document."""

from __future__ import annotations

from flask import Blueprint, Response

from serve.api.openapi import description
from serve.http.sse import json_bytes
from serve.settings import Defaults


def blueprint(defaults: Defaults) -> Blueprint:
    """`/openapi.json`, made once."""
    routes = Blueprint("description", __name__)
    document = json_bytes(description(defaults))

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return Response(document, mimetype="application/json")

    return routes
