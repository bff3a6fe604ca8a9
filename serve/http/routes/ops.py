"""For operators: is it up, what does it serve, how busy is it."""

from __future__ import annotations

from flask import Blueprint, Response

from serve.http import prometheus
from serve.http.routes.common import json_answer
from serve.models import Models


def blueprint(models: Models) -> Blueprint:
    """`/`, `/health` and `/metrics`. None waits for the engine."""
    routes = Blueprint("ops", __name__)
    (service,) = models.loaded
    registry = prometheus.registry(service)

    @routes.get("/")
    def index() -> Response:
        # "Hello world" is what the original said, and what setups of its time look for.
        return Response(
            f"Hello world\n\nTurboPilot serves {service.model.name} at POST /v1/completions\n",
            mimetype="text/plain",
        )

    @routes.get("/health")
    def health() -> Response:
        now = service.status
        body: dict[str, object] = {
            "status": now.state,
            "model": service.model.name,
            "running": now.running,
            "waiting": now.waiting,
        }
        if service.failure:
            body["reason"] = service.failure.message
        return json_answer(body, status=200 if now.state == "ok" else 503)

    @routes.get("/metrics")
    def metrics() -> Response:
        return Response(prometheus.text(registry), content_type=prometheus.CONTENT_TYPE)

    return routes
