"""The routes, as the table of endpoints lists them; views of those that compute nothing are here."""

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

# The plugin asks again after `refresh_in` seconds. Source: the original TurboPilot's answer.
LIFETIME_SECONDS = 1800
REFRESH_SECONDS = 900
# GitHub's servers mark their answers with it; the newest language servers take a token from such an answer alone.
GITHUB_HEADER = "X-GitHub-Request-Id"

View = Callable[..., Response]


def register(
    app: Flask, models: ModelPool, defaults: Defaults, *, copilot_request_id: bool
) -> None:
    """Add all endpoints to the app. With `copilot_request_id` Copilot's token comes with GITHUB_HEADER."""
    views = {
        **_model_views(models),
        **_operator_views(models, defaults),
        "tabbyHealth": lambda: json_answer(_tabby_health(models.known[0].name)),
        "tabbyEvents": lambda: Response(status=200),
        "copilotToken": lambda: _copilot_token(request_id=copilot_request_id),
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
        # Completions accept any name, so this does too: it means the default.
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
    """None waits for the engine."""
    registry = prometheus.registry(models)
    document = json_bytes(description(defaults))

    def index() -> Response:
        # "Hello world" is what the original said, and what setups of its time look for.
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
    """An unloaded default model is "ok": the first request loads it."""
    default, models = statuses[0], [_model_health(s) for s in statuses]
    answer: HealthAnswer = {
        "status": "ok" if default.state == "unloaded" else default.state,
        "model": default.name,
        "running": sum(s.running for s in statuses),
        "waiting": sum(s.waiting for s in statuses),
        "models": models,
    }
    return {**answer, "reason": default.reason} if default.reason else answer


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


def _copilot_token(*, request_id: bool) -> Response:
    """Without API keys any caller gets the same token, which opens nothing: there are no accounts here.

    With them the caller gets back the key that let it in, which the plugin then sends with all later requests.
    """
    answer: CopilotToken = {
        "token": g.get("api_key", "1"),
        "expires_at": int(time.time()) + LIFETIME_SECONDS,
        "refresh_in": REFRESH_SECONDS,
    }
    response = json_answer(answer)
    response.headers["Cache-Control"] = "no-store"
    if request_id:
        response.headers[GITHUB_HEADER] = g.request_id
    return response
