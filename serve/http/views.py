"""Registration of all routes, and the views of routes that need no model."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Mapping

from flask import Flask, Response, g, request

from serve.api import llama_state, lora
from serve.api import models as answers
from serve.api.body import read_any_json, read_json, validated
from serve.api.dialect import json_bytes
from serve.api.endpoints import ENDPOINTS
from serve.api.health import (
    CopilotToken,
    HealthAnswer,
    ModelHealth,
    TabbyHealth,
    device_health,
    upstream_health,
)
from serve.api.llama_tokenizer import ModelRequest
from serve.api.openapi import description
from serve.http.respond import completion_view, json_answer, model_view
from serve.models import ModelPool, ModelStatus
from serve.models.service import CompletionService
from serve.models.status import ModelInfo
from serve.settings import Defaults
from turbopilot.base.errors import NotSupported, Overloaded
from turbopilot.base.version import __version__

# Lifetime of Copilot's token; the plugin requests a new one after `refresh_in`. Source: the original TurboPilot.
LIFETIME_SECONDS = 1800
REFRESH_SECONDS = 900

View = Callable[..., Response]


def register(app: Flask, models: ModelPool, defaults: Defaults, more: Mapping[str, View]) -> None:
    """Add all endpoints to the app; `more` has the views of some of them."""
    views = {
        **more,
        **_model_views(models),
        **_ollama_views(models),
        **_llama_views(models, defaults),
        **_adapter_views(models),
        **_operator_views(models, defaults),
        "tabbyHealth": lambda: json_answer(_tabby_health(models.known[0].name)),
        "copilotToken": _copilot_token,
        **{e.name: _refusal(e.refusal) for e in ENDPOINTS if e.refusal},
        **{
            e.name: model_view(e.body, models)
            for e in ENDPOINTS
            if e.body and issubclass(e.body, ModelRequest)
        },
    }
    for e in ENDPOINTS:
        view = completion_view(e, models, defaults) if e.requests else views[e.name]
        for path in e.paths:
            rule = re.sub(r"{(\w+)}", r"<path:\1>", path)
            app.add_url_rule(rule, e.name, view, methods=e.methods)


def _model_views(models: ModelPool) -> dict[str, View]:
    def all_models() -> Response:
        answer: answers.ModelsAnswer = {
            "object": "list",
            "data": [answers.model_answer(m) for m in models.known],
        }
        return json_answer(answer)

    def model(name: str) -> Response:
        return json_answer(answers.model_answer(models.find(name).info))

    return {"models": all_models, "model": model}


def _find(models: ModelPool, name: str) -> ModelInfo | None:
    return next((m for m in models.known if m.name == name), None)


def _ollama_views(models: ModelPool) -> dict[str, View]:
    def tags() -> Response:
        return json_answer(answers.ollama_models(models.known))

    def ps() -> Response:
        loaded = {service.model.name for service in models.loaded}
        return json_answer(answers.ollama_models(m for m in models.known if m.name in loaded))

    def show() -> Response:
        asked = answers.ShowRequest.read(read_json(request.get_data(cache=False)))
        # Unknown names mean the default model, as in completion requests.
        found = _find(models, asked.model or asked.name) or models.known[0]
        return json_answer(answers.ollama_model_info(found))

    def version() -> Response:
        return json_answer({"version": answers.OLLAMA_VERSION})

    return {"ollamaTags": tags, "ollamaPs": ps, "ollamaShow": show, "ollamaVersion": version}


def _llama_views(models: ModelPool, defaults: Defaults) -> dict[str, View]:
    def asked() -> tuple[ModelInfo, CompletionService | None]:
        """Return the model in the query, or the default one, and its service if it is loaded."""
        info = _find(models, request.args.get("model", "")) or models.known[0]
        return info, next((s for s in models.loaded if s.model.name == info.name), None)

    def props() -> Response:
        info, service = asked()
        return json_answer(llama_state.props(info, defaults, service))

    def slots() -> Response:
        info, service = asked()
        states = service.metrics.slots() if service else ()
        is_full = bool(states) and all(s.request_id is not None for s in states)
        if is_full and request.args.get("fail_on_no_slot"):
            raise Overloaded("no slot is free", hint="try again later")
        return json_answer([llama_state.slot(s, info.n_ctx) for s in states])

    return {"props": props, "slots": slots}


def _adapter_views(models: ModelPool) -> dict[str, View]:
    def adapters() -> Response:
        return json_answer(lora.adapter_list(models.adapters.states))

    def set_adapters() -> Response:
        asked = validated(lora.LoraAdapterScales, read_any_json(request.get_data(cache=False)))
        models.adapters.set(lora.by_index(asked.root))
        return json_answer({"success": True})

    return {"loraAdapters": adapters, "setLoraAdapters": set_adapters}


def _refusal(message: str) -> View:
    """Return the view of a route that always answers with status 501."""

    def view() -> Response:
        raise NotSupported(message)

    return view


def _operator_views(models: ModelPool, defaults: Defaults) -> dict[str, View]:
    """Return the views for operators, none of which waits for the engine."""
    document = json_bytes(description(defaults))

    def health() -> Response:
        answer = _health(models.statuses)
        return json_answer(answer, status=200 if answer["status"] == "ok" else 503)

    def openapi() -> Response:
        return Response(document, mimetype="application/json")

    return {"health": health, "openapi": openapi}


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
    if s.devices:
        answer["devices"] = [device_health(use) for use in s.devices]
    if s.reason:
        answer["reason"] = s.reason
    if s.certificate:
        answer["certificate"] = s.certificate
    if s.upstreams:
        answer["upstreams"] = [upstream_health(u) for u in s.upstreams]
    if s.adapters:
        answer["lora"] = [{"id": a.id, "name": a.path.name, "scale": a.scale} for a in s.adapters]
    return answer


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
