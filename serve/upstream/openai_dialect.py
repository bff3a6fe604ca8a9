"""OpenAI's `/v1/completions`, as vLLM, SGLang, llama-cpp-python and other engines extend it.

Sources, for the fields of a request and of an event:

- vLLM: vllm/entrypoints/openai/completion/protocol.py and serving.py. It answers `suffix` with 400, so the prompt is
  always framed here. Omitted sampling fields come from the model's generation_config.json, so all are set.
- SGLang: python/sglang/srt/entrypoints/openai/protocol.py and serving_completions.py.
- llama-cpp-python: llama_cpp/server/types.py and app.py, whose prompts are text. Its `logprobs` need a model loaded
  with logits_all, and a new request interrupts the running one unless it is started with --interrupt_requests false.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from serve.decoder import Tokenizer
from serve.request import ChosenToken, SamplingParams, TokenLogprob
from serve.upstream.dialect import (
    EngineCall,
    EngineDialect,
    EngineError,
    EnginePiece,
    Event,
    bias_of,
    schema_of,
)

_LEAST_TOP_P: Final = 1e-6  # vLLM and SGLang refuse 0
_FINISH: Final = {"stop": "stop", "length": "length"}
_ID: Final = "token_id:"  # vLLM's tokens with `return_tokens_as_token_ids`


class OpenAiDialect(EngineDialect):
    """An engine with OpenAI's fields and no more, which takes text."""

    engine = "OpenAI API"
    path = "/v1/completions"
    takes_ids = False
    can = frozenset(("logit_bias",))
    health = "/v1/models"
    repeat_field: ClassVar[str] = ""

    def body(self, call: EngineCall) -> Mapping[str, Any]:
        """See `EngineDialect`."""
        s = call.request.sampling
        body: dict[str, Any] = {
            "model": self.facts.model, "prompt": call.prompt, "max_tokens": call.max_tokens, "stream": True,
            "temperature": s.temperature, "top_p": max(s.top_p, _LEAST_TOP_P),
            "frequency_penalty": s.frequency_penalty, "presence_penalty": s.presence_penalty,
        }  # fmt: skip
        if call.seed is not None:
            body["seed"] = call.seed % 2**31
        if s.logit_bias:
            body["logit_bias"] = bias_of(s, -100.0)
        return body

    def _sampling(self, s: SamplingParams, off: int) -> dict[str, Any]:
        """Return the fields that OpenAI's API does not have; `off` is the value of `top_k` for all tokens."""
        return {"top_k": s.top_k or off, "min_p": s.min_p, self.repeat_field: s.repeat_penalty}

    def piece(self, event: Event, tokenizer: Tokenizer) -> EnginePiece | None:
        """See `EngineDialect`."""
        n_cached = _cached(event.get("usage"))
        if not event["choices"]:
            return None if n_cached is None else EnginePiece(n_cached=n_cached)
        choice = event["choices"][0]
        if (reason := choice.get("finish_reason")) and reason not in _FINISH:
            raise EngineError(f"the engine ended the completion: {reason}")  # abort, content_filter
        ids = tuple(choice.get("token_ids") or ())
        scored = choice.get("logprobs")
        chosen = tuple(_chosen(scored, ids, tokenizer)) if scored else ()
        text = choice["text"]
        n = len(ids) or len(chosen) or int(bool(text))
        finish = _FINISH.get(reason or "", "")
        return EnginePiece(text, n, token_ids=ids, chosen=chosen, n_cached=n_cached, finish=finish)


class VllmDialect(OpenAiDialect):
    """The API of vLLM."""

    engine = "vLLM"
    takes_ids = True
    can = frozenset(
        ("json_schema", "logprobs", "logit_bias", "top_k", "min_p", "repeat_penalty")
    )  # fmt: skip
    tokenize = ("/tokenize", "prompt")
    health = "/health"
    repeat_field = "repetition_penalty"

    def body(self, call: EngineCall) -> Mapping[str, Any]:
        """See `EngineDialect`."""
        r = call.request
        body = {
            **super().body(call), **self._sampling(r.sampling, off=-1),
            "return_token_ids": True, "stop_token_ids": call.ends, "stream_options": {"include_usage": True},
        }  # fmt: skip
        if r.n_logprobs is not None:
            body["logprobs"] = r.n_logprobs
            body |= self._exact_logprobs
        if r.sampling.schema:
            schema = {"name": "completion", "schema": schema_of(r.sampling)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    _exact_logprobs: ClassVar[Mapping[str, Any]] = {"return_tokens_as_token_ids": True}


class SglangDialect(VllmDialect):
    """The API of SGLang."""

    engine = "SGLang"
    _exact_logprobs: ClassVar[Mapping[str, Any]] = {}


class LlamaCppPythonDialect(OpenAiDialect):
    """llama-cpp-python's server."""

    engine = "llama-cpp-python"
    can = frozenset(("logit_bias", "top_k", "min_p", "repeat_penalty"))
    repeat_field = "repeat_penalty"

    def body(self, call: EngineCall) -> Mapping[str, Any]:
        """See `EngineDialect`."""
        return {**super().body(call), **self._sampling(call.request.sampling, off=0)}


def _cached(usage: Any) -> int | None:
    """Return the cached prompt tokens in OpenAI's `usage`; None if it does not report them."""
    details = (usage or {}).get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    return cached if isinstance(cached, int) else None


def _chosen(
    scored: Mapping[str, Any], ids: tuple[int, ...], tokenizer: Tokenizer
) -> Iterable[ChosenToken]:
    """Yield the tokens of OpenAI's `logprobs`, which has lists with one item per token."""
    tops = scored.get("top_logprobs") or [None] * len(scored["tokens"])
    for i, (text, logprob) in enumerate(
        zip(scored["tokens"], scored["token_logprobs"], strict=True)
    ):
        known = ids[i] if i < len(ids) else None
        top = tuple(_scored(t, value, tokenizer) for t, value in (tops[i] or {}).items())
        yield ChosenToken(_scored(text, logprob, tokenizer, known), top)


def _scored(
    text: str, logprob: float | None, tokenizer: Tokenizer, known: int | None = None
) -> TokenLogprob:
    if text.startswith(_ID) and text[len(_ID) :].isdecimal():
        known = int(text[len(_ID) :])
    value = math.nan if logprob is None else float(logprob)
    if known is not None:
        return TokenLogprob(known, tokenizer.piece(known), value)
    found = tokenizer.tokenize(text, parse_special=True)
    return TokenLogprob(found[0] if len(found) == 1 else 0, text.encode(), value)
