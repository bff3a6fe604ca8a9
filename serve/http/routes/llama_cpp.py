"""llama.cpp's own routes, as llama.vim, llama.vscode and Twinny call them."""

from __future__ import annotations

from flask import Blueprint, Response

from serve.api.llama_cpp import LlamaCppCall, LlamaCppRendering, parse_completion, parse_infill
from serve.http.routes.common import SSE_WITHOUT_DONE, client_watch, json_body, respond
from serve.models import ModelPool
from serve.settings import Defaults


def blueprint(models: ModelPool, defaults: Defaults) -> Blueprint:
    """`/completion` and `/infill`."""
    routes = Blueprint("llama_cpp", __name__)

    @routes.post("/completion")
    @routes.post("/completions")
    def completion() -> Response:
        return answer(parse_completion(json_body(), defaults))

    @routes.post("/infill")
    def infill() -> Response:
        return answer(parse_infill(json_body(), defaults))

    def answer(call: LlamaCppCall) -> Response:
        with models.use(call.model, client_watch()) as service:
            return respond(
                service,
                call.completion,
                lambda truncated: LlamaCppRendering(call, service.model.name, truncated=truncated),
                SSE_WITHOUT_DONE if call.stream else None,
            )

    return routes
