"""OpenAI's routes: legacy completions, under FauxPilot's engine names too, chat, models; and Mistral's beside them."""

from __future__ import annotations

from flask import Blueprint, Response

from serve.api.chat import ChatCall, ChatRendering, parse_chat, parse_mistral_fim
from serve.api.completions import CompletionsRendering, parse_completions
from serve.api.prompt_fields import read_model
from serve.http.routes.common import SSE, client_watch, json_answer, json_body, respond
from serve.models import ModelPool
from serve.models.service import CompletionService, ModelInfo
from serve.settings import Defaults


def blueprint(models: ModelPool, defaults: Defaults) -> Blueprint:
    """The routes under /v1; those that newer Copilot plugins ask for lack it."""
    routes = Blueprint("openai", __name__)

    @routes.post("/v1/completions")
    @routes.post("/v1/engines/<path:engine>/completions")
    def completions(engine: str = "") -> Response:
        call = parse_completions(json_body(), defaults)
        with models.use(engine or call.model, client_watch()) as service:
            prompts = call.completion.prompts if call.needs_prompts else ()
            texts = tuple(map(service.text, prompts))
            return respond(
                service,
                call.completion,
                lambda truncated: CompletionsRendering(
                    call, service.model.name, texts, truncated=truncated
                ),
                SSE if call.stream else None,
            )

    @routes.post("/v1/chat/completions")
    @routes.post("/chat/completions")
    def chat() -> Response:
        body = json_body()
        with models.use(read_model(body), client_watch()) as service:
            return answer_chat(service, parse_chat(body, defaults, service.chat_prompt))

    @routes.post("/v1/fim/completions")
    def fim() -> Response:
        call = parse_mistral_fim(json_body(), defaults)
        with models.use(call.model, client_watch()) as service:
            return answer_chat(service, call)

    def answer_chat(service: CompletionService, call: ChatCall) -> Response:
        return respond(
            service,
            call.completion,
            lambda truncated: ChatRendering(call, service.model.name, truncated=truncated),
            SSE if call.stream else None,
        )

    @routes.get("/v1/models")
    @routes.get("/models")
    def all_models() -> Response:
        data = [_model(m, m.name) for m in models.known]
        return json_answer({"object": "list", "data": data})

    @routes.get("/v1/models/<path:name>")
    def model(name: str) -> Response:
        # Completions accept any name, so this does too: it means the default.
        found = next((m for m in models.known if m.name == name), models.known[0])
        return json_answer(_model(found, name))

    return routes


def _model(model: ModelInfo, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "turbopilot",
        "root": model.name,
        "max_model_len": model.n_ctx,
    }
