"""OpenAI's chat, and Mistral's fill-in-the-middle, which is answered in its form. Pure data."""

from __future__ import annotations

from typing import Final

from serve.api.chat import ROLES
from serve.api.openapi.openai import ENDS, SSE, SSE_DONE
from serve.api.openapi.operation import OPENAI_ERROR, Chapter, computes, json_of, stream_of
from serve.api.openapi.sampling import (
    DEADLINE,
    MODEL,
    STREAM,
    logit_bias,
    sampling,
    stops,
    stream_options,
)
from serve.api.openapi.schema import (
    FLAG,
    NUMBER,
    STRING,
    WHOLE,
    Schema,
    body,
    flag,
    listed,
    one_of,
    or_null,
    record,
    ref,
    text,
    whole,
)
from serve.api.prompt_fields import MAX_CHOICES, MAX_LOGPROBS
from serve.settings import Defaults

_PART: Final[Schema] = {
    "type": "object",
    "properties": {"type": one_of("text"), "text": text("It.")},
    "required": ["type"],
}
_MESSAGES: Final[Schema] = {
    "type": "array",
    "minItems": 1,
    "description": "What was said; the model's own template makes a prompt of it, and may refuse an order of roles.",
    "items": {
        "type": "object",
        "properties": {
            "role": one_of(*ROLES),
            "content": {
                "type": ["string", "array", "null"],
                "items": _PART,
                "description": "A text, or parts of one: there are no eyes and ears here.",
            },
        },
        "required": ["role"],
    },
}
_DETAIL: Final[dict[str, Schema]] = {
    "token": STRING,
    "logprob": or_null(NUMBER),
    "bytes": listed({"type": "integer", "minimum": 0, "maximum": 255}),
}


def token_details(**more: Schema) -> Schema:
    """A list with an object a token, the likeliest in its place among it."""
    detail = {**more, **_DETAIL}
    return listed(record({**detail, "top_logprobs": listed(record(detail))}))


def _schemas(defaults: Defaults) -> dict[str, Schema]:
    common = {"model": MODEL, "stream": STREAM, **stream_options(), "deadline_ms": DEADLINE}
    length = whole("At most; more than fits is cut.", defaults.max_tokens, least=0)
    chat: dict[str, Schema] = {
        "messages": _MESSAGES,
        **common,
        "max_tokens": length,
        "max_completion_tokens": {**length, "description": "The same, and before it."},
        "n": whole("Answers.", 1, least=1, most=MAX_CHOICES),
        "logprobs": flag("Tell each token's log probability."),
        "top_logprobs": whole(
            "And those of so many likeliest; read with `logprobs`.", 0, least=0, most=MAX_LOGPROBS
        ),
        **stops(),
        **sampling(defaults),
        **logit_bias(),
    }
    fim: dict[str, Schema] = {
        "prompt": {**STRING, "description": "The text before the cursor."},
        "suffix": text("The text after it."),
        **common,
        "max_tokens": length,
        **stops(),
        **sampling(defaults, seed="random_seed"),
    }
    logprobs = or_null(record({"content": token_details()}))
    message = record({"role": one_of("assistant"), "content": STRING})
    delta = record({"role": one_of("assistant"), "content": STRING}, optional=["role", "content"])
    choice = {
        "index": WHOLE,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": one_of(*ENDS),
    }
    piece = {
        "index": WHOLE,
        "delta": delta,
        "logprobs": logprobs,
        "finish_reason": one_of(*ENDS, "cancelled", None),
    }
    head = {"id": STRING, "created": WHOLE, "model": STRING}
    return {
        "ChatRequest": body("OpenAI's chat completion.", chat, ["messages"]),
        "MistralFimRequest": body("Mistral's fill-in-the-middle.", fim, ["prompt"]),
        "Chat": record(
            {
                **head,
                "object": one_of("chat.completion"),
                "choices": listed(record(choice)),
                "usage": ref("Usage"),
                "truncated": FLAG,
            }
        ),
        "ChatChunk": record(
            {
                **head,
                "object": one_of("chat.completion.chunk"),
                "choices": listed(record(piece)),
                "usage": or_null(ref("Usage")),
                "truncated": FLAG,
            },
            optional=["usage", "truncated"],
        ),
    }


def chapter(defaults: Defaults) -> Chapter:
    """The routes of `serve.http.routes.openai` that answer in chat's form."""
    answer = {**json_of(ref("Chat")), **stream_of(SSE, ref("ChatChunk"), OPENAI_ERROR, SSE_DONE)}
    messages = {"messages": [{"role": "user", "content": "Write a haiku."}], "max_tokens": 32}
    between = {"prompt": "def add(", "suffix": "\n    return a + b\n", "max_tokens": 16}
    return Chapter(
        "Chat",
        "OpenAI's chat completions, of models that carry a template for them, and Mistral's fill-in-the-middle.",
        {
            "/v1/chat/completions": {
                "post": computes("chat", "Answer messages.", ref("ChatRequest"), messages, answer)
            },
            "/chat/completions": {
                "post": computes("chatToo", "The same.", ref("ChatRequest"), messages, answer)
            },
            "/v1/fim/completions": {
                "post": computes(
                    "mistralFim",
                    "Fill in at the cursor, as Mistral's Codestral does.",
                    ref("MistralFimRequest"),
                    between,
                    answer,
                )
            },
        },
        _schemas(defaults),
    )
