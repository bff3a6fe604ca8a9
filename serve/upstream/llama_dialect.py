"""llama-server's `/completion`, which TurboPilot speaks too.

Source: llama.cpp's tools/server: server-schema.cpp (fields of a request), `to_json_non_oaicompat` in server-task.cpp
(events), `process_token` in server-context.cpp: the tokens of an incomplete character are not sent, and its text comes
with the token that completes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serve.decoder import Tokenizer
from serve.request import ChosenToken, GenerationRequest, TokenLogprob
from serve.request_headers import PRIORITY_HEADER
from serve.sampling.healing import Healing
from serve.upstream.dialect import (
    EngineCall,
    EngineDialect,
    EngineError,
    EnginePiece,
    Event,
    schema_of,
)

_FINISH: Final = {"eos": "stop", "word": "stop", "limit": "length"}
# For a token that a grammar rejects, llama.cpp tries each token of the vocabulary in each of its alternatives.
_MOST_SPELLINGS: Final = 128
_INFILL: Final = ("penalties", "top_k", "top_p", "min_p", "infill")


def respelling(healing: Healing) -> str:
    """Return a grammar that allows the tokens that `Spelling.mask` allows; "" if they are too many.

    Source: "Tokens" in llama.cpp's grammars/README.md: <[7]> is the token with the id 7. For spaces, which tens of
    thousands of tokens begin with, the grammar has characters: spaces, and then something else.
    """
    if not healing.text.strip(b" \t"):
        spaces = healing.text.decode().replace("\t", "\\t")
        return f'root ::= "{spaces}" ([^ \\t\\x00] [^\\x00]*)?'
    choices, left = "", healing.text
    for token in healing.tokens:
        ids = healing.index.spelling(left).tolist()
        if len(ids) > _MOST_SPELLINGS:
            return ""
        choices += f"({' | '.join(f'<[{i}]>' for i in ids)} | <[{token}]> "
        left = left[len(healing.index.piece(token)) :]
    return f"root ::= {choices}{')' * len(healing.tokens)} [^\\x00]*"


class LlamaServerDialect(EngineDialect):
    """llama-server of llama.cpp."""

    engine = "llama-server"
    path = "/completion"
    can = frozenset(
        ("json_schema", "logprobs", "logit_bias", "top_k", "min_p", "repeat_penalty")
    )  # fmt: skip
    tokenize = ("/tokenize", "content")

    def body(self, call: EngineCall) -> Mapping[str, Any]:
        """Return the JSON of a request. All sampling fields are set: the engine's defaults are not ours."""
        r, s = call.request, call.request.sampling
        body: dict[str, Any] = {
            "prompt": call.prompt, "n_predict": call.max_tokens, "stream": True, "cache_prompt": True,
            "return_tokens": True, "timings_per_token": True,
            "temperature": s.temperature, "top_p": s.top_p, "top_k": s.top_k, "min_p": s.min_p,
            "repeat_penalty": s.repeat_penalty, "repeat_last_n": s.repeat_last_n,
            "frequency_penalty": s.frequency_penalty, "presence_penalty": s.presence_penalty,
        }  # fmt: skip
        if call.seed is not None:
            body["seed"] = call.seed % 2**31
        if r.n_logprobs is not None:
            body["n_probs"] = max(1, r.n_logprobs)  # 0 turns them off
        if s.logit_bias:
            body["logit_bias"] = [[i, False if b == float("-inf") else b] for i, b in s.logit_bias]
        if s.schema:
            body["json_schema"] = schema_of(s)
        if s.infill:
            # Temperature 0 leaves one token, so it comes last, as in our sampler; else it comes first.
            first, last = ((), ("temperature",)) if s.temperature == 0 else (("temperature",), ())
            body["samplers"] = (*first, *_INFILL, *last)
        if call.holds_to:
            body["grammar"] = respelling(call.holds_to)
        return body

    def can_hold_to(self, healing: Healing) -> bool:
        """See `EngineDialect`."""
        return bool(respelling(healing))

    def piece(self, event: Event, tokenizer: Tokenizer) -> EnginePiece:
        """See `EngineDialect`."""
        tokens = tuple(event.get("tokens") or ())
        timings = event.get("timings") or {}
        chosen = tuple(map(_chosen, event.get("completion_probabilities") or ()))
        is_last, finish = event["stop"], ""
        if is_last and not (finish := _FINISH.get(event["stop_type"], "")):
            raise EngineError("the engine ended the completion")
        prompt_ms = timings.get("prompt_ms")
        return EnginePiece(
            event["content"],
            n_tokens=0 if is_last else 1,
            n_total=timings.get("predicted_n"),
            token_ids=tokens,
            chosen=() if is_last else chosen,  # the last event repeats them
            n_cached=timings.get("cache_n"),
            prompt_seconds=None if prompt_ms is None else prompt_ms / 1000,
            finish=finish,
        )


class TurboPilotDialect(LlamaServerDialect):
    """Another TurboPilot, which re-spells tokens for us, and reads the client's prediction and priority."""

    engine = "TurboPilot"
    heals = True

    def body(self, call: EngineCall) -> Mapping[str, Any]:
        """See `LlamaServerDialect`."""
        body = dict(super().body(call))
        del body["return_tokens"], body["cache_prompt"]
        body["end_loops"] = False  # our rule also sees the line before the cursor
        if call.seed is not None:
            body["seed"] = call.seed
        if call.respells:
            body["respells"] = call.respells
        if call.request.prediction:
            body["prediction"] = {"type": "content", "content": call.request.prediction}
        return body

    def headers(self, request: GenerationRequest) -> Mapping[str, str]:
        """See `EngineDialect`."""
        return {PRIORITY_HEADER: "low"} if request.is_low else {}


def _chosen(found: Mapping[str, Any]) -> ChosenToken:
    return ChosenToken(_scored(found), tuple(map(_scored, found.get("top_logprobs") or ())))


def _scored(found: Mapping[str, Any]) -> TokenLogprob:
    return TokenLogprob(int(found["id"]), bytes(found["bytes"]), float(found["logprob"]))
