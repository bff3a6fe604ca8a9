"""For operators: is it up, and what does it serve."""

from __future__ import annotations

from flask import Blueprint, Response

from serve.routes.common import json_answer
from serve.service import CompletionService


def blueprint(service: CompletionService) -> Blueprint:
    """`/` and `/health`. Neither waits for the engine."""
    routes = Blueprint("ops", __name__)

    @routes.get("/")
    def index() -> Response:
        # "Hello world" is what the original said, and what setups of its time look for.
        return Response(
            f"Hello world\n\nTurboPilot serves {service.model.name} at POST /v1/completions\n",
            mimetype="text/plain",
        )

    @routes.get("/health")
    def health() -> Response:
        if service.failure:
            raise service.failure
        return json_answer(
            {"status": "ok", "model": service.model.name, "requests": service.n_jobs}
        )

    return routes
