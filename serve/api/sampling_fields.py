"""How tokens are to be chosen, as the dialects spell it. Knows nothing of Flask, threads or models.

OpenAI's, llama.cpp's, vLLM's, Hugging Face's and Ollama's names mean the same things, so each is understood
everywhere.
"""

from __future__ import annotations

import math
from typing import Any

from serve.api.fields import Fields
from serve.request import SamplingParams
from serve.settings import Defaults
from turbopilot.base.errors import InvalidRequest

# Source: OpenAI's API reference on `logit_bias`.
MAX_BIAS = 100.0
# Pairs of `logit_bias`; each costs time for every token.
MAX_BIASES = 4096
# Characters of a text in it. Tokens are shorter, and llama.cpp takes minutes for the tokens of a text of megabytes.
MAX_BIAS_TEXT = 128
ANY_OBJECT: dict[str, Any] = {"type": "object"}


def read_sampling(
    f: Fields, defaults: Defaults, *, format_of: Fields | None = None, seed: str = "seed"
) -> SamplingParams:
    """The sampling parameters among the fields.

    Args:
        f: the object that holds them: the body, `parameters` or `options`.
        defaults: for what is absent.
        format_of: where Ollama's `format` is; None looks for no such field.
        seed: the name of the field that makes choices repeatable.

    Raises:
        InvalidRequest: a field cannot be used.
    """
    temperature = f.number("temperature", defaults.temperature, least=0)
    penalty = "repeat_penalty" if "repeat_penalty" in f else "repetition_penalty"
    return SamplingParams(
        temperature=temperature if f.flag("do_sample", True) else 0.0,  # Hugging Face's
        top_p=f.number("top_p", defaults.top_p, least=0, most=1),
        top_k=max(0, f.integer("top_k", 0)),  # vLLM's -1 is "off"
        min_p=f.number("min_p", 0.0, least=0, most=1),
        repeat_penalty=f.number(penalty, 1.0, least=0.01, most=100),  # above 0: it divides
        repeat_last_n=f.integer("repeat_last_n", 64, least=-1),
        frequency_penalty=f.number("frequency_penalty", 0.0, least=-2, most=2),
        presence_penalty=f.number("presence_penalty", 0.0, least=-2, most=2),
        grammar=_grammar(f, format_of),
        infill=_wants_infill(f),
        seed=f.integer(seed, 0) if seed in f else None,
    )


def read_logit_bias(f: Fields) -> tuple[tuple[int | str, float], ...]:
    """`logit_bias`: OpenAI's object {id or text: -100 … 100}, or llama.cpp's list [[id or text, number or false]].

    Raises:
        InvalidRequest: it is neither.
    """
    value = f.raw("logit_bias")
    if value is None:
        return ()
    if isinstance(value, dict):
        pairs = [[int(k) if _is_number(k) else k, v] for k, v in value.items()]
    elif isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value):
        pairs = value
    else:
        f.fail("logit_bias", "an object, or a list of [token, bias] pairs")
    if len(pairs) > MAX_BIASES:
        raise InvalidRequest(f"logit_bias has more than {MAX_BIASES} tokens", param="logit_bias")
    return tuple((_token(f, token), _bias(f, bias)) for token, bias in pairs)


def _is_number(text: str) -> bool:
    return len(text) <= 10 and text.isascii() and text.isdecimal()


def _token(f: Fields, token: object) -> int | str:
    if isinstance(token, bool) or not isinstance(token, int | str):
        f.fail("logit_bias", "about token ids or texts")
    if isinstance(token, int):
        return token
    if len(token) > MAX_BIAS_TEXT:
        f.fail("logit_bias", f"about texts of at most {MAX_BIAS_TEXT} characters")
    return token.encode("utf-8", "replace").decode()


def _bias(f: Fields, bias: object) -> float:
    if bias is False:
        return -math.inf
    if isinstance(bias, bool) or not isinstance(bias, int | float):
        f.fail("logit_bias", f"a number for each token, from -{MAX_BIAS:g} to {MAX_BIAS:g}")
    if not -MAX_BIAS <= bias <= MAX_BIAS:
        f.fail("logit_bias", f"a number for each token, from -{MAX_BIAS:g} to {MAX_BIAS:g}")
    return float(bias)


def _wants_infill(f: Fields) -> bool:
    """Whether llama.cpp's list of samplers names the one for fill-in-the-middle."""
    samplers = f.raw("samplers")
    return isinstance(samplers, list) and "infill" in samplers


def _grammar(f: Fields, format_of: Fields | None) -> str:
    """GBNF, given as such or as a JSON schema; "" where neither is asked for."""
    grammars = [g for g in (f.text("grammar"),) if g]
    schemas = [s for s in (f.mapping("json_schema"), _response_schema(f)) if s is not None]
    if format_of and (schema := _ollama_schema(format_of)) is not None:
        schemas.append(schema)
    if len(grammars) + len(schemas) > 1:
        raise InvalidRequest(
            "give one of grammar, json_schema and response_format", param="grammar"
        )
    return grammars[0] if grammars else _to_gbnf(schemas[0]) if schemas else ""


def _response_schema(f: Fields) -> dict[str, Any] | None:
    """OpenAI's `response_format`, with llama.cpp's `schema` inside "json_object"; None is any text."""
    r = f.object("response_format")
    kind = r.text("type", "text")
    if kind not in ("text", "json_object", "json_schema"):
        r.fail("type", "text, json_object or json_schema")
    if kind == "text":
        return None
    if kind == "json_object":
        return r.mapping("schema") or ANY_OBJECT
    schema = r.object("json_schema").mapping("schema")
    if schema is None:
        r.fail("json_schema", "an object with a schema")
    return schema


def _ollama_schema(body: Fields) -> dict[str, Any] | None:
    """Ollama's `format`: "json", or a schema."""
    value = body.raw("format")
    if value in (None, ""):
        return None
    if value == "json":
        return ANY_OBJECT
    if not isinstance(value, dict):
        body.fail("format", '"json" or a JSON schema')
    return value


def _to_gbnf(schema: dict[str, Any]) -> str:
    from serve.llama import grammar  # few requests have one, and it brings llama.cpp's converter

    return grammar.json_schema_to_gbnf(schema)
