"""`/api/generate` in its two dialects, Hugging Face's and Ollama's. Pure data."""

from __future__ import annotations

from serve.api.openapi.operation import PLAIN_ERROR, Chapter, computes, json_of, stream_of
from serve.api.openapi.sampling import DEADLINE, MODEL, PREDICT_TIME, logit_bias, sampling, stops
from serve.api.openapi.schema import (
    FLAG,
    STRING,
    WHOLE,
    Schema,
    body,
    flag,
    nested,
    one_of,
    record,
    ref,
    text,
    texts,
    whole,
)
from serve.settings import Defaults

NDJSON = "application/x-ndjson"


def _schemas(defaults: Defaults) -> dict[str, Schema]:
    shared = {**stops(), **sampling(defaults), **logit_bias(), "t_max_predict_ms": PREDICT_TIME}
    parameters: dict[str, Schema] = {
        "max_new_tokens": whole("At most; before `max_tokens`, which it is by default.", least=0),
        "stop_sequences": texts("As `stop`, where that is empty."),
        "return_full_text": flag("Begin the text with `inputs`."),
        **shared,
    }
    options: dict[str, Schema] = {
        "num_predict": whole("At most; below 0 is as many as fit.", defaults.max_tokens),
        **shared,
    }
    json_form: Schema = {
        "description": '"json", or a JSON schema that the text fits.',
        "anyOf": [{"type": ["object", "null"]}, one_of("json", "")],
    }
    counts = (
        "total_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    )
    answer: dict[str, Schema] = {
        "model": STRING,
        "created_at": {**STRING, "format": "date-time"},
        "response": STRING,
        "done": FLAG,
        "done_reason": one_of("stop", "length", "cancelled", "load"),
        **dict.fromkeys(counts, WHOLE),
        "truncated": FLAG,
    }
    last = ("done_reason", *counts, "truncated")
    return {
        "HuggingFaceRequest": body(
            "Hugging Face's text generation.",
            {
                "inputs": {**STRING, "description": "The text to continue."},
                "max_tokens": whole("At most.", defaults.max_tokens, least=0),
                "parameters": nested("How it is continued.", parameters),
                "deadline_ms": DEADLINE,
            },
            ["inputs"],
        ),
        "OllamaRequest": body(
            "Ollama's generate.",
            {
                "inputs": {"type": "null", "description": "Absent: else it is Hugging Face's."},
                "prompt": {
                    **STRING,
                    "description": "The text before the cursor; an empty one loads the model.",
                },
                "suffix": text("The text after it."),
                "model": MODEL,
                "stream": flag("Send the text as it is generated.", default=True),
                "format": json_form,
                "options": nested("How it is continued.", options),
                "deadline_ms": DEADLINE,
            },
            ["prompt"],
        ),
        "HuggingFaceAnswer": record({"generated_text": STRING, "truncated": FLAG}),
        "OllamaAnswer": record(
            answer, last, "All but the counts in every line; those in the last."
        ),
    }


def chapter(defaults: Defaults) -> Chapter:
    """The routes of `serve.http.routes.generate`."""
    whole_answer: Schema = {"anyOf": [ref("HuggingFaceAnswer"), ref("OllamaAnswer")]}
    lines = stream_of(NDJSON, ref("OllamaAnswer"), PLAIN_ERROR, "Ollama's: a line of JSON a piece.")
    return Chapter(
        "Generate",
        "Hugging Face's text generation (with `inputs`) and Ollama's (with `prompt`) at one address.",
        {
            "/api/generate": {
                "post": computes(
                    "generate",
                    "Continue a text.",
                    {"anyOf": [ref("HuggingFaceRequest"), ref("OllamaRequest")]},
                    {"inputs": "def add(a, b):", "parameters": {"max_new_tokens": 16}},
                    {**json_of(whole_answer), **lines},
                    error=PLAIN_ERROR,
                )
            }
        },
        _schemas(defaults),
    )
