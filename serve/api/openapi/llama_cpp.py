"""llama.cpp's own routes, which llama.vim, llama.vscode and Twinny call. Pure data."""

from __future__ import annotations

from typing import Final

from serve.api.openapi.chat import token_details
from serve.api.openapi.openai import SSE
from serve.api.openapi.operation import OPENAI_ERROR, Chapter, computes, json_of, stream_of
from serve.api.openapi.sampling import (
    DEADLINE,
    MODEL,
    PREDICT_TIME,
    STREAM,
    logit_bias,
    prompts,
    sampling,
    stops,
)
from serve.api.openapi.schema import (
    FLAG,
    STRING,
    WHOLE,
    Schema,
    body,
    listed,
    needed,
    one_of,
    record,
    ref,
    text,
    texts,
    whole,
)
from serve.api.prompt_fields import MAX_CHOICES, MAX_LOGPROBS
from serve.settings import Defaults

_TIME: Final[Schema] = {"type": "number", "minimum": 0}
_TIMINGS: Final = record(
    {
        "cache_n": WHOLE,
        **{
            f"{what}_{unit}": WHOLE if unit == "n" else _TIME
            for what in ("prompt", "predicted")
            for unit in ("n", "ms", "per_token_ms", "per_second")
        },
        "draft_n": WHOLE,
        "draft_n_accepted": WHOLE,
    },
    optional=["draft_n", "draft_n_accepted"],
    what="Milliseconds, and tokens.",
)
_PROBABILITIES: Final = token_details(id=WHOLE)
_EXTRA: Final[Schema] = {
    "type": ["array", "null"],
    "description": "Other files that the model is to know, those that matter most at the end.",
    "items": {
        "type": "object",
        "properties": {"filename": text("Its name."), "text": text("What it holds.")},
    },
}


def _fields(defaults: Defaults) -> dict[str, Schema]:
    return {
        "model": MODEL,
        "n_predict": whole(
            "At most; below 0 is as many as fit, 0 only warms the cache.", defaults.max_tokens
        ),
        "max_tokens": whole("The same; `n_predict` goes before it.", defaults.max_tokens),
        "n_cmpl": whole(
            f"Texts for each prompt; times prompts at most {MAX_CHOICES}.",
            1,
            least=1,
            most=MAX_CHOICES,
        ),
        "n": whole("The same; `n_cmpl` goes before it.", 1, least=1, most=MAX_CHOICES),
        "n_probs": whole(
            "Tell each token's log probability and those of so many likeliest; 0 is none.",
            0,
            least=0,
            most=MAX_LOGPROBS,
        ),
        "stream": STREAM,
        "response_fields": texts(
            'The names of all fields that are wanted of the answer, nested ones as "timings/prompt_n"; none is all.'
        ),
        **stops(),
        **sampling(defaults),
        **logit_bias(),
        "deadline_ms": DEADLINE,
        "t_max_predict_ms": PREDICT_TIME,
    }


def _schemas(defaults: Defaults) -> dict[str, Schema]:
    infill: dict[str, Schema] = {
        "input_prefix": text("The text before the cursor's line."),
        "input_suffix": text("The text after the cursor."),
        "prompt": text(
            "What is typed already of the cursor's line; alone: a prompt framed by the client."
        ),
        "input_extra": _EXTRA,
        **_fields(defaults),
    }
    one_is_there = [
        {"properties": {name: needed(infill[name]) | least}, "required": [name]}
        for name, least in (
            ("input_prefix", {}),
            ("input_suffix", {}),
            ("prompt", {"minLength": 1}),
        )
    ]
    found: dict[str, Schema] = {
        "index": WHOLE,
        "content": STRING,
        "stop": FLAG,
        "stop_type": {
            **one_of("limit", "eos", "word", "none"),
            "description": "Its length, its end, a stop string, or a newer request of its session.",
        },
        "stopping_word": {**STRING, "description": "The stop string that ended it."},
        "model": STRING,
        "tokens_predicted": WHOLE,
        "tokens_evaluated": WHOLE,
        "tokens_cached": WHOLE,
        "truncated": FLAG,
        "timings": ref("Timings"),
        "completion_probabilities": _PROBABILITIES,
    }
    return {
        "LlamaCompletionRequest": body(
            "llama.cpp's completion.", {"prompt": prompts(), **_fields(defaults)}, ["prompt"]
        ),
        "InfillRequest": body("llama.cpp's fill-in-the-middle.", infill, anyOf=one_is_there),
        "Infill": {
            "type": "object",
            "description": "All but the probabilities, or what `response_fields` names; a stream's pieces hold less.",
            "properties": found,
            "patternProperties": {
                "/": {"description": "A nested field, by the name that was asked."}
            },
            "additionalProperties": False,
        },
        "Timings": _TIMINGS,
    }


def chapter(defaults: Defaults) -> Chapter:
    """The routes of `serve.http.routes.llama_cpp`."""
    one = ref("Infill")
    what = (
        "Server-sent events, each `data:` and a piece in JSON. The last of a text has `stop` true."
    )
    answer = {
        **json_of({"anyOf": [one, listed(one)], "description": "A list where there are several."}),
        **stream_of(SSE, one, OPENAI_ERROR, what),
    }
    start = {"prompt": "def add(a, b):", "n_predict": 16}
    between = {"input_prefix": "def add(", "input_suffix": "\n    return a + b\n", "n_predict": 16}
    request = ref("LlamaCompletionRequest")
    return Chapter(
        "llama.cpp",
        "llama.cpp's own routes, as llama.vim, llama.vscode and Twinny call them.",
        {
            "/completion": {
                "post": computes("llamaCompletion", "Continue a text.", request, start, answer)
            },
            "/completions": {
                "post": computes("llamaCompletionToo", "The same.", request, start, answer)
            },
            "/infill": {
                "post": computes(
                    "infill", "Fill in at the cursor.", ref("InfillRequest"), between, answer
                )
            },
        },
        _schemas(defaults),
    )
