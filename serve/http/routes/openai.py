"""OpenAI's legacy completions and model list, and FauxPilot's engine routes, which speak the same."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

from flask import Blueprint, Response, request

from serve.generation import ClientGone, ClientWatch, Generation
from serve.http.errors import stream_error
from serve.http.routes.common import (
    client_watch,
    json_answer,
    json_body,
    stream_answer,
    with_headers,
)
from serve.http.schemas import parse_openai
from serve.http.sse import DONE, sse_frame
from serve.request import TextDelta, Usage
from serve.service import CompletionService
from serve.settings import Defaults


def blueprint(service: CompletionService, defaults: Defaults) -> Blueprint:
    """The routes under /v1."""
    routes = Blueprint("openai", __name__)

    @routes.post("/v1/completions")
    @routes.post("/v1/engines/<path:engine>/completions")
    def completions(engine: str = "") -> Response:
        call = parse_openai(json_body(), defaults)
        head = _head(service.model.name)
        generation = service.start(with_headers(call.completion), whole=not call.stream)
        if call.stream:
            frames = _frames(generation, head, call.include_usage, client_watch(), request.path)
            return stream_answer(frames, generation, "text/event-stream")
        answer = generation.collect(client_watch())
        choices = [_choice(i, c.text, c.finish_reason) for i, c in enumerate(answer.choices)]
        return json_answer(
            {
                **head,
                "choices": choices,
                "usage": _usage(answer.usage),
                "truncated": bool(generation.truncated),
            },
            generation,
        )

    @routes.get("/v1/models")
    def models() -> Response:
        return json_answer({"object": "list", "data": [_model(service, service.model.name)]})

    @routes.get("/v1/models/<path:name>")
    def model(name: str) -> Response:
        # Completions accept any name for the one model there is, so this does too.
        return json_answer(_model(service, name))

    return routes


def _head(model: str) -> dict[str, object]:
    """What an answer and all its chunks have in common."""
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, object]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _frames(
    generation: Generation,
    head: dict[str, object],
    include_usage: bool,
    watch: ClientWatch,
    path: str,
) -> Iterator[bytes]:
    """A frame for each piece of text, one that ends each choice, perhaps one of usage, [DONE]."""
    no_usage: dict[str, object] = {"usage": None} if include_usage else {}
    try:
        for index, event in generation.events(watch):
            if isinstance(event, TextDelta):
                yield sse_frame({**head, "choices": [_choice(index, event.text, None)], **no_usage})
            else:
                last = {
                    "choices": [_choice(index, "", event.reason)],
                    "truncated": bool(generation.truncated),
                }
                yield sse_frame({**head, **last, **no_usage})
    except ClientGone:
        return
    except Exception as e:
        yield sse_frame(stream_error(e, path))
        return
    if include_usage:
        yield sse_frame({**head, "choices": [], "usage": _usage(generation.usage)})
    yield DONE


def _model(service: CompletionService, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": service.model.created,
        "owned_by": "turbopilot",
        "root": service.model.name,
        "max_model_len": service.model.n_ctx,
    }
