"""OpenAI's: legacy completions, under FauxPilot's engine names too and in Tabby's form, and models. Pure data."""

from __future__ import annotations

from typing import Final

from serve.api.openapi.operation import OPENAI_ERROR, Chapter, asks, computes, json_of, stream_of
from serve.api.openapi.sampling import (
    DEADLINE,
    MODEL,
    PREDICT_TIME,
    STREAM,
    logit_bias,
    prompts,
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
    either,
    flag,
    listed,
    needed,
    nested,
    one_of,
    or_null,
    record,
    ref,
    text,
    whole,
)
from serve.api.prompt_fields import MAX_CHOICES, MAX_LOGPROBS
from serve.settings import Defaults

SSE: Final = "text/event-stream"
SSE_DONE: Final = (
    "Server-sent events, each `data:` and a piece in JSON; the last is `data: [DONE]`."
)
# What a client may read as the end of a choice; "cancelled" only in a stream whose session went on.
ENDS: Final = ("stop", "length")

_USAGE: Final = record(
    {
        "prompt_tokens": WHOLE,
        "completion_tokens": WHOLE,
        "total_tokens": WHOLE,
        "prompt_tokens_details": record({"cached_tokens": WHOLE}),
    },
    what="A prompt counts once, however many choices it has.",
)
_LOGPROBS: Final = record(
    {
        "tokens": listed(STRING),
        "token_logprobs": listed(or_null(NUMBER)),
        "top_logprobs": or_null(
            listed(or_null({"type": "object", "additionalProperties": or_null(NUMBER)}))
        ),
        "text_offset": listed(WHOLE),
    },
    what="Lists of the same length, a token each; null for a prompt's first, which nothing comes before.",
)
_MODEL: Final = record(
    {
        "id": STRING,
        "object": one_of("model"),
        "created": WHOLE,
        "owned_by": STRING,
        "root": {**STRING, "description": "The model that answers to this name."},
        "max_model_len": {**WHOLE, "description": "Tokens of prompt and answer together."},
    }
)
_ENGINE: Final = {
    "name": "engine",
    "in": "path",
    "required": True,
    "schema": {**STRING, "minLength": 1},
}
_NAME: Final = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {**STRING, "minLength": 1},
}


def _fields(defaults: Defaults) -> dict[str, Schema]:
    return {
        "model": MODEL,
        "suffix": text("The text after the cursor. A model that cannot fill in goes without it."),
        "max_tokens": whole(
            "At most; more than fits is cut, 0 only warms the cache.", defaults.max_tokens, least=0
        ),
        "n": whole(
            f"Texts for each prompt; times prompts at most {MAX_CHOICES}.",
            1,
            least=1,
            most=MAX_CHOICES,
        ),
        "best_of": whole(
            "Texts that are generated for each prompt, of which the `n` likeliest are told; at least `n`, and no "
            "more than that in a stream.",
            least=1,
            most=MAX_CHOICES,
        ),
        "stream": STREAM,
        **stream_options(),
        "echo": flag("Begin the text with the prompt; with `logprobs` its tokens are judged, too."),
        "logprobs": either(
            "Tell each token's log probability and those of so many likeliest.",
            {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_LOGPROBS},
            {"const": False},
        ),
        **stops(),
        **sampling(defaults),
        **logit_bias(),
        "deadline_ms": DEADLINE,
        "t_max_predict_ms": PREDICT_TIME,
    }


def _choice(ends: Schema) -> Schema:
    return record(
        {
            "index": WHOLE,
            "text": STRING,
            "logprobs": or_null(ref("Logprobs")),
            "finish_reason": ends,
        }
    )


def _head(kind: str) -> dict[str, Schema]:
    return {"id": STRING, "object": one_of(kind), "created": WHOLE, "model": STRING}


def _schemas(defaults: Defaults) -> dict[str, Schema]:
    fields = _fields(defaults)
    segments = nested(
        "Tabby's form of a prompt; read where `prompt` is absent.",
        {
            "prefix": text("Before the cursor."),
            "suffix": text("After it."),
            "filepath": text("Of the file that is edited."),
        },
    )
    no_prompt: Schema = {"type": ["null", "array"], "maxItems": 0, "description": "Absent."}
    head = _head("text_completion")
    return {
        "CompletionRequest": body(
            "OpenAI's legacy completion.", {"prompt": prompts(), **fields}, ["prompt"]
        ),
        "TabbyRequest": body(
            "Tabby's agent's.",
            {"segments": needed(segments), "prompt": no_prompt, **fields},
            ["segments"],
        ),
        "Completion": record(
            {
                **head,
                "choices": listed(_choice(one_of(*ENDS))),
                "usage": ref("Usage"),
                "truncated": {
                    **FLAG,
                    "description": "Whether something was given up so that it fits.",
                },
            }
        ),
        "CompletionChunk": record(
            {
                **head,
                "choices": listed(_choice(one_of(*ENDS, "cancelled", None))),
                "usage": or_null(ref("Usage")),
                "truncated": FLAG,
            },
            optional=["usage", "truncated"],
        ),
        "Logprobs": _LOGPROBS,
        "Usage": _USAGE,
        "Model": _MODEL,
        "Models": record({"object": one_of("list"), "data": listed(ref("Model"))}),
    }


def chapter(defaults: Defaults) -> Chapter:
    """The routes of `serve.http.routes.openai`, but for chat and Mistral's."""
    request: Schema = {"anyOf": [ref("CompletionRequest"), ref("TabbyRequest")]}
    example = {"prompt": "def add(a, b):\n    return", "max_tokens": 16, "stop": ["\n\n"]}
    answer = {
        **json_of(ref("Completion")),
        **stream_of(SSE, ref("CompletionChunk"), OPENAI_ERROR, SSE_DONE),
    }
    return Chapter(
        "OpenAI",
        "OpenAI's API: legacy completions, which FauxPilot and Tabby speak too, and models.",
        {
            "/v1/completions": {
                "post": computes("complete", "Continue a text.", request, example, answer)
            },
            "/v1/engines/{engine}/completions": {
                "post": computes(
                    "completeWithEngine",
                    "The same, of an engine: FauxPilot's and older plugins' address.",
                    request,
                    example,
                    answer,
                    parameters=[_ENGINE],
                )
            },
            "/v1/models": {
                "get": asks("models", "Which models are served.", json_of(ref("Models")))
            },
            "/models": {"get": asks("modelsToo", "The same.", json_of(ref("Models")))},
            "/v1/models/{name}": {
                "get": asks(
                    "model",
                    "What a name stands for; one that nobody knows means the default.",
                    json_of(ref("Model")),
                    parameters=[_NAME],
                )
            },
        },
        _schemas(defaults),
    )
