"""The fields that every dialect reads, by whatever object holds them: `serve.api.sampling_fields` and stops. Pure."""

from __future__ import annotations

from typing import Final

from serve.api.openapi.schema import (
    STRING,
    Schema,
    anything,
    either,
    flag,
    nested,
    number,
    text,
    texts,
    whole,
)
from serve.api.prompt_fields import MAX_CHOICES
from serve.api.sampling_fields import MAX_BIAS, MAX_BIAS_TEXT, MAX_BIASES
from serve.settings import Defaults

_BIAS: Final[Schema] = {
    "anyOf": [{"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS}, {"const": False}]
}
_TOKEN_ID: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}

# Clients send what they like, and none is refused for it.
MODEL: Final[Schema] = {
    "description": "Which model is asked, by its name; whatever is no known name means the first."
}
STREAM: Final = flag("Send the text as it is generated.")
DEADLINE: Final = number(
    "Milliseconds after which the answer is of no use any more; what there is by then is the answer. 0 is the "
    "server's own limit, which this only shortens.",
    least=0,
)
PREDICT_TIME: Final = number(
    "Milliseconds from the first token after which the text ends, once a line is complete. 0 is no limit.",
    least=0,
)


def sampling(defaults: Defaults, *, seed: str = "seed") -> dict[str, Schema]:
    """How tokens are chosen. OpenAI's, llama.cpp's, vLLM's and Hugging Face's names are understood everywhere.

    Args:
        defaults: the server's.
        seed: what the dialect calls it.
    """
    return {
        "temperature": number("0 is always the likeliest.", defaults.temperature, least=0),
        "top_p": number(
            "Among the likeliest of this much together.", defaults.top_p, least=0, most=1
        ),
        "top_k": whole("Among so many of the likeliest; below 1 is off.", 0),
        "min_p": number(
            "Not what is less likely, by the likeliest, than this.", 0, least=0, most=1
        ),
        "typical_p": number("Among the locally typical of this much together.", 1, least=0, most=1),
        "repeat_penalty": number(
            "Against tokens that were there; 1 is off.", 1, least=0.01, most=100
        ),
        "repetition_penalty": number(
            "The same; `repeat_penalty` goes before it.", 1, least=0.01, most=100
        ),
        "repeat_last_n": whole("How far back the penalties look; -1 is all.", 64, least=-1),
        "frequency_penalty": number("OpenAI's, additive.", 0, least=-2, most=2),
        "presence_penalty": number("OpenAI's, additive.", 0, least=-2, most=2),
        "mirostat": whole("1 or 2 hold the surprise near `mirostat_tau`.", 0, least=0, most=2),
        "mirostat_tau": number("The surprise to hold, in bits.", 5, least=0),
        "mirostat_eta": number("How fast it is corrected.", 0.1, least=0, most=1),
        "do_sample": flag("false is temperature 0.", default=True),
        "samplers": {
            "description": 'llama.cpp\'s list of samplers. "infill" in it is heeded; the order is not.'
        },
        seed: whole("Makes the choices repeatable; absent is another each time."),
        **_FORM,
    }


_HAS_SCHEMA_TYPE: Final[Schema] = {
    "type": "object",
    "properties": {"type": {"const": "json_schema"}},
    "required": ["type"],
}
_HAS_SCHEMA: Final[Schema] = {
    "properties": {
        "json_schema": {
            "type": "object",
            "properties": {"schema": {"type": "object"}},
            "required": ["schema"],
        }
    },
    "required": ["json_schema"],
}
_FORM: Final[dict[str, Schema]] = {
    "grammar": text(
        "GBNF that the text follows. One of `grammar`, `json_schema` and `response_format`."
    ),
    "json_schema": anything("A JSON schema that the text fits; references outside it are refused."),
    "response_format": nested(
        "OpenAI's.",
        {
            "type": {
                "enum": ["text", "json_object", "json_schema", None],
                "description": "null is text.",
                "default": "text",
            },
            "schema": anything("llama.cpp's: of a `json_object`."),
            "json_schema": nested(
                "Of a `json_schema`.", {"schema": anything("A JSON schema that the text fits.")}
            ),
        },
    )
    | {"if": _HAS_SCHEMA_TYPE, "then": _HAS_SCHEMA},
}


def stops() -> dict[str, Schema]:
    """Where a text ends before it is long enough."""
    return {
        "stop": texts("The text ends before any of these, however many there are."),
        "single_line": flag("End at the end of the first line that is not blank."),
        "n_indent": whole("End before a line indented by less than this; 0 is off.", 0, least=0),
    }


def logit_bias() -> dict[str, Schema]:
    """What is added to the logits."""
    by_name: Schema = {
        "type": "object",
        "propertyNames": {"maxLength": MAX_BIAS_TEXT},
        "additionalProperties": _BIAS,
        "maxProperties": MAX_BIASES,
    }
    pair: Schema = {
        "type": "array",
        "prefixItems": [{"type": ["integer", "string"], "maxLength": MAX_BIAS_TEXT}, _BIAS],
        "minItems": 2,
        "maxItems": 2,
    }
    pairs: Schema = {"type": "array", "maxItems": MAX_BIASES, "items": pair}
    what = (
        "OpenAI's object {token id or text: bias}, or llama.cpp's list of [token id or text, bias]. A text stands for "
        "all of its tokens; false forbids them; ids of other models' tokens are nobody's."
    )
    return {"logit_bias": either(what, by_name, pairs, {"type": "null"})}


def prompts() -> Schema:
    """OpenAI's four forms of a prompt, where there has to be one."""
    ids: Schema = {"type": "array", "items": _TOKEN_ID}
    return either(
        "Text, token ids, or a list of either.",
        STRING,
        {"type": "array", "items": STRING, "minItems": 1, "maxItems": MAX_CHOICES},
        {**ids, "minItems": 1},
        {"type": "array", "items": ids, "minItems": 1, "maxItems": MAX_CHOICES},
    )


def stream_options() -> dict[str, Schema]:
    """OpenAI's, of a stream."""
    usage = flag("End the stream with a chunk that has the token counts and no choices.")
    return {"stream_options": nested("Of a stream.", {"include_usage": usage})}
