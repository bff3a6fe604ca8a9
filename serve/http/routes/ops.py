"""For operators: is it up, what does it serve, how busy is it."""

from __future__ import annotations

from flask import Blueprint, Response

from serve.http import prometheus
from serve.http.routes.common import json_answer
from serve.models import ModelPool, ModelStatus


def blueprint(models: ModelPool) -> Blueprint:
    """`/`, `/health` and `/metrics`. None waits for the engine."""
    routes = Blueprint("ops", __name__)
    registry = prometheus.registry(models)

    @routes.get("/")
    def index() -> Response:
        # "Hello world" is what the original said, and what setups of its time look for.
        return Response(
            f"Hello world\n\nTurboPilot serves {models.known[0].name} at POST /v1/completions\n",
            mimetype="text/plain",
        )

    @routes.get("/health")
    def health() -> Response:
        """200 where a completion would be begun. That the default model is unloaded is no fault: asking loads it."""
        statuses = models.statuses
        default = statuses[0]
        state = "ok" if default.state == "unloaded" else default.state
        body: dict[str, object] = {
            "status": state,
            "model": default.name,
            "running": sum(s.running for s in statuses),
            "waiting": sum(s.waiting for s in statuses),
            "models": [_model(s) for s in statuses],
        }
        if default.reason:
            body["reason"] = default.reason
        return json_answer(body, status=200 if state == "ok" else 503)

    @routes.get("/metrics")
    def metrics() -> Response:
        return Response(prometheus.text(registry), content_type=prometheus.CONTENT_TYPE)

    return routes


def _model(status: ModelStatus) -> dict[str, object]:
    body: dict[str, object] = {
        "name": status.name,
        "status": status.state,
        "running": status.running,
        "waiting": status.waiting,
    }
    return body | ({"reason": status.reason} if status.reason else {})
