"""`/api/generate` in its two dialects: Hugging Face's (`inputs`) and Ollama's (`prompt`)."""

from __future__ import annotations

from flask import Blueprint, Response

from serve.api.fields import Fields
from serve.api.huggingface import HuggingFaceRendering, parse_huggingface
from serve.api.ollama import OllamaRendering, parse_ollama
from serve.http.routes.common import (
    NDJSON,
    client_watch,
    json_answer,
    json_body,
    respond,
    respond_whole,
)
from serve.models import ModelPool
from serve.settings import Defaults
from turbopilot.base.errors import InvalidRequest


def blueprint(models: ModelPool, defaults: Defaults) -> Blueprint:
    """The routes under /api."""
    routes = Blueprint("generate", __name__)

    @routes.post("/api/generate")
    def generate() -> Response:
        body = json_body()
        if "inputs" in body:
            return huggingface(body)
        if "prompt" in body:
            return ollama(body)
        raise InvalidRequest("you must specify inputs (or, as for Ollama, prompt)", param="inputs")

    def huggingface(body: Fields) -> Response:
        call = parse_huggingface(body, defaults)
        with models.use("", client_watch()) as service:
            return respond_whole(
                service,
                call.completion,
                lambda truncated: HuggingFaceRendering(call, truncated=truncated),
            )

    def ollama(body: Fields) -> Response:
        call = parse_ollama(body, defaults)
        with models.use(call.model, client_watch()) as service:
            name = call.model or service.model.name
            if call.only_loads:  # by now it is
                return json_answer(OllamaRendering(name, truncated=False).loaded())
            return respond(
                service,
                call.completion,
                lambda truncated: OllamaRendering(name, truncated=truncated),
                NDJSON if call.stream else None,
            )

    return routes
