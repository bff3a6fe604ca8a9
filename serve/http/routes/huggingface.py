"""`/api/generate` in its two dialects: Hugging Face's (`inputs`) and Ollama's (`prompt`)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

from flask import Blueprint, Response, request

from serve.generation import ClientGone, ClientWatch, Generation
from serve.http.errors import stream_error
from serve.http.fields import Fields
from serve.http.routes.common import (
    client_watch,
    json_answer,
    json_body,
    stream_answer,
    with_headers,
)
from serve.http.schemas import parse_huggingface, parse_ollama
from serve.http.sse import ndjson_line
from serve.request import TextDelta, Usage
from serve.service import CompletionService
from serve.settings import Defaults
from turbopilot.errors import InvalidRequest


def blueprint(service: CompletionService, defaults: Defaults) -> Blueprint:
    """The routes under /api."""
    routes = Blueprint("huggingface", __name__)

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
        generation = service.start(with_headers(call.completion), whole=True)
        (choice,) = generation.collect(client_watch()).choices
        text = call.inputs + choice.text if call.return_full_text else choice.text
        return json_answer(
            {"generated_text": text, "truncated": bool(generation.truncated)}, generation
        )

    def ollama(body: Fields) -> Response:
        call = parse_ollama(body, defaults)
        model = call.model or service.model.name
        if not any((*call.completion.prompts, call.completion.suffix)):
            # Ollama's clients load a model by an empty prompt; ours is loaded already.
            return json_answer(_part(model, "", {"done": True, "done_reason": "load"}))
        generation = service.start(with_headers(call.completion), whole=not call.stream)
        if call.stream:
            lines = _lines(generation, model, client_watch(), request.path)
            return stream_answer(lines, generation, "application/x-ndjson")
        answer = generation.collect(client_watch())
        (choice,) = answer.choices
        last = _last(choice.finish_reason, answer.usage, generation)
        return json_answer(_part(model, choice.text, last), generation)

    return routes


def _part(model: str, text: str, rest: dict[str, object]) -> dict[str, object]:
    now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
    return {"model": model, "created_at": now, "response": text, **rest}


def _last(reason: str, usage: Usage, generation: Generation) -> dict[str, object]:
    return {
        "done": True,
        "done_reason": reason,
        "prompt_eval_count": usage.prompt_tokens,
        "eval_count": usage.completion_tokens,
        "truncated": bool(generation.truncated),
    }


def _lines(generation: Generation, model: str, watch: ClientWatch, path: str) -> Iterator[bytes]:
    """A line for each piece of text, and one that says how it ended."""
    try:
        for _, event in generation.events(watch):
            if isinstance(event, TextDelta):
                yield ndjson_line(_part(model, event.text, {"done": False}))
            else:
                yield ndjson_line(_part(model, "", _last(event.reason, event.usage, generation)))
    except ClientGone:
        return
    except Exception as e:
        yield ndjson_line(stream_error(e, path))
