"""Ollama's `/api/generate` with `raw`, which uses the prompt as given: one JSON object a line.

Source: GenerateRequest, GenerateResponse, Options and Runner in ollama's api/types.go; GenerateHandler in
server/routes.go. Other values of `num_ctx` would load the model again, so all requests send the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serve.decoder import Tokenizer
from serve.upstream.dialect import (
    EngineCall,
    EngineDialect,
    EngineError,
    EnginePiece,
    Event,
    read_json,
    schema_of,
)

_NANO: Final = 1_000_000_000


class OllamaDialect(EngineDialect):
    """Ollama's own API."""

    engine = "Ollama"
    path = "/api/generate"
    takes_ids = False
    can = frozenset(("json_schema", "top_k", "min_p", "repeat_penalty"))
    health = "/api/version"

    def body(self, call: EngineCall) -> Mapping[str, Any]:
        """See `EngineDialect`."""
        s = call.request.sampling
        options: dict[str, Any] = {
            "num_predict": call.max_tokens, "temperature": s.temperature, "top_p": s.top_p, "top_k": s.top_k,
            "min_p": s.min_p, "repeat_penalty": s.repeat_penalty, "repeat_last_n": s.repeat_last_n,
            "frequency_penalty": s.frequency_penalty, "presence_penalty": s.presence_penalty, "stop": [],
        }  # fmt: skip
        if self.facts.n_ctx:
            options["num_ctx"] = self.facts.n_ctx
        if call.seed is not None:
            options["seed"] = call.seed % 2**31
        body: dict[str, Any] = {
            "model": self.facts.model, "prompt": call.prompt, "raw": True, "stream": True, "options": options,
        }  # fmt: skip
        if s.schema:
            body["format"] = schema_of(s)
        return body

    def event(self, line: bytes) -> Event | None:
        """See `EngineDialect`."""
        return read_json(line) if line.strip() else None

    def piece(self, event: Event, tokenizer: Tokenizer) -> EnginePiece:
        """See `EngineDialect`."""
        text, finish, seconds = event["response"], "", None
        if event["done"]:
            finish = event.get("done_reason") or "stop"
            if finish not in ("stop", "length"):
                raise EngineError(f"the engine ended the completion: {finish}")  # load, unload
            seconds = event.get("prompt_eval_duration", 0) / _NANO
        return EnginePiece(text, int(bool(text)), prompt_seconds=seconds, finish=finish)
