"""Registration of all routes, and the views of routes that need no model."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable

from flask import Flask, Response, g

from serve.api.dialect import json_bytes
from serve.api.endpoints import (
    ENDPOINTS,
    CopilotToken,
    HealthAnswer,
    ModelAnswer,
    ModelHealth,
    ModelsAnswer,
    TabbyHealth,
)
from serve.api.openapi import description
from serve.http import prometheus
from serve.http.respond import completion_view, json_answer
from serve.models import ModelPool, ModelStatus
from serve.models.service import ModelInfo
from serve.settings import Defaults
from turbopilot.base.version import __version__

# Lifetime of Copilot's token; the plugin requests a new one after `refresh_in`. Source: the original TurboPilot.
LIFETIME_SECONDS = 1800
REFRESH_SECONDS = 900

View = Callable[..., Response]


def register(app: Flask, models: ModelPool, defaults: Defaults) -> None:
    """Add all endpoints to the app."""
    views = {
        **_model_views(models),
        **_operator_views(models, defaults),
        "tabbyHealth": lambda: json_answer(_tabby_health(models.known[0].name)),
        "tabbyEvents": lambda: Response(status=200),
        "copilotToken": _copilot_token,
    }
    for e in ENDPOINTS:
        view = completion_view(e, models, defaults) if e.requests else views[e.name]
        for path in e.paths:
            rule = re.sub(r"{(\w+)}", r"<path:\1>", path)
            app.add_url_rule(rule, e.name, view, methods=e.methods)


def _model_views(models: ModelPool) -> dict[str, View]:
    def all_models() -> Response:
        answer: ModelsAnswer = {"object": "list", "data": [_model(m, m.name) for m in models.known]}
        return json_answer(answer)

    def model(name: str) -> Response:
        # Unknown names mean the default model, as in completion requests.
        found = next((m for m in models.known if m.name == name), models.known[0])
        return json_answer(_model(found, name))

    return {"models": all_models, "model": model}


def _model(model: ModelInfo, name: str) -> ModelAnswer:
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "turbopilot",
        "root": model.name,
        "max_model_len": model.n_ctx,
    }


def _operator_views(models: ModelPool, defaults: Defaults) -> dict[str, View]:
    """Return the views for operators, none of which waits for the engine."""
    registry = prometheus.registry(models)
    document = json_bytes(description(defaults))

    def index() -> Response:
        # The original TurboPilot's page was "Hello world", and existing health checks look for this text.
        return Response(
            f"Hello world\n\nTurboPilot serves {models.known[0].name} at POST /v1/completions\n",
            mimetype="text/plain",
        )

    def health() -> Response:
        answer = _health(models.statuses)
        return json_answer(answer, status=200 if answer["status"] == "ok" else 503)

    def metrics() -> Response:
        return Response(prometheus.text(registry), content_type=prometheus.CONTENT_TYPE)

    def openapi() -> Response:
        return Response(document, mimetype="application/json")

    return {"index": index, "health": health, "metrics": metrics, "openapi": openapi}


def _health(statuses: tuple[ModelStatus, ...]) -> HealthAnswer:
    """Return the state of the server. An unloaded default model is "ok", since the first request loads it."""
    default, models = statuses[0], [_model_health(s) for s in statuses]
    shown = next((s for s in statuses if s.state == "stalled"), default)
    answer: HealthAnswer = {
        "status": "ok" if shown.state == "unloaded" else shown.state,
        "model": default.name,
        "running": sum(s.running for s in statuses),
        "waiting": sum(s.waiting for s in statuses),
        "models": models,
    }
    return {**answer, "reason": shown.reason} if shown.reason else answer


def _model_health(s: ModelStatus) -> ModelHealth:
    answer: ModelHealth = {
        "name": s.name,
        "status": s.state,
        "running": s.running,
        "waiting": s.waiting,
    }
    return {**answer, "reason": s.reason} if s.reason else answer


def _tabby_health(model: str) -> TabbyHealth:
    return {
        "model": model,
        "device": "",
        "arch": platform.machine(),
        "cpu_info": platform.processor(),
        "cpu_count": os.cpu_count() or 1,
        "cuda_devices": [],
        "version": {
            "build_date": "",
            "build_timestamp": "",
            "git_sha": "",
            "git_describe": f"turbopilot {__version__}",
        },
    }


def _copilot_token() -> Response:
    """Return a token for Copilot's plugin, which the plugin sends with all later requests.

    The token is the API key in the caller's request. Without API keys, it is a fixed text that grants no access.
    """
    answer: CopilotToken = {
        "token": g.get("api_key", "1"),
        "expires_at": int(time.time()) + LIFETIME_SECONDS,
        "refresh_in": REFRESH_SECONDS,
    }
    response = json_answer(answer)
    response.headers["Cache-Control"] = "no-store"
    return response
