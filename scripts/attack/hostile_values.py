"""Values of request fields that take time or memory, or lie outside every limit."""

from __future__ import annotations

from random import Random
from typing import Any

from attack.mutate import FLOATS, INTEGERS, TEXTS, json_mutated, junk
from tests.corpus.hostile import SCHEMAS

AMBIGUOUS = 'root ::= e\ne ::= " " e "0" | ' + " | ".join(['" "'] * 100)
"""Grammar whose matcher takes exponential time."""


_GRAMMARS = (AMBIGUOUS, "root ::= root", "root ::= ", "(" * 9999, 'root ::= "a"{0,1000000000}')
_PATTERNS = (
    "^(a+)+$",
    "^" + "(a|" * 200 + "b" + ")" * 200 + "$",
    "^[^",
    "^a{1,99999}$",
    "(?=x)",
    r"^\p{L}+$",
    "^( *)*$",
    "^((( | )*0?)*)*$",
    "^" + "(.*)*" * 30 + "$",
)


def schema_body(rng: Random) -> dict[str, Any]:
    """Return fields that ask for a hostile JSON schema, or a grammar."""
    schema = _schema(rng)
    if rng.random() < 0.3:
        schema = json_mutated(rng, schema)
    way = rng.randrange(6)
    if way == 0:
        return {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": schema},
            }
        }
    if way == 1:
        return {"response_format": {"type": "json_object", "schema": schema}}
    if way == 2:
        return {"grammar": rng.choice(_GRAMMARS)}
    if way == 3:
        return {"format": schema}
    return {"json_schema": schema}


def _schema(rng: Random) -> Any:
    deep: Any = {"type": "string"}
    for _ in range(rng.choice((5, 50, 400))):
        deep = (
            {"type": "array", "items": deep}
            if rng.random() < 0.5
            else {"type": "object", "properties": {"a": deep}}
        )
    n = rng.choice((1, 100, 10_000, 10**9))
    return rng.choice((
        deep,
        {"type": "string", "pattern": rng.choice(_PATTERNS)},
        *SCHEMAS.values(),
        {"type": "string", "minLength": n, "maxLength": rng.choice((0, n, n * 2))},
        {"type": "array", "items": {"type": "integer"}, "minItems": n, "maxItems": n},
        {"type": "integer", "minimum": rng.choice(INTEGERS), "maximum": rng.choice(INTEGERS)},
        {"enum": [rng.choice(TEXTS) for _ in range(rng.choice((0, 3, 3000)))]},
        {"anyOf": [{"type": "string"}] * rng.choice((1, 100, 2000))},
        {"allOf": [{"type": "object", "properties": {f"k{i}": {"type": "integer"}}} for i in range(200)]},
        {"$ref": rng.choice(("#", "#/$defs/a", "http://127.0.0.1:1/x", "file:///etc/passwd", "#/" + "a/" * 999))},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}, "items": {"$ref": "#/$defs/a"}},
        {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(rng.choice((10, 2000)))}},
        {"type": rng.choice(("object", ["string"] * 500, 7, "", None))},
        {"anyOf": [{"const": " " * i} for i in range(100)]},
        {"type": "array", "items": {"anyOf": [{"type": "string", "pattern": "^ *$"}] * 60}},
        junk(rng),
    ))  # fmt: skip


def stop_body(rng: Random) -> dict[str, Any]:
    """Return stop strings."""
    n = rng.choice((1, 4, 16, 1000))
    return {"stop": rng.choice((
        rng.choice(TEXTS), [rng.choice(TEXTS) for _ in range(n)], ["a" * rng.choice((1, 1000, 100_000))] * n,
        [""] * n, ["\n"], [[]], [None], ["\ud83d", "\ude00"], "ab" * 5000, [chr(i) for i in range(1, n)], {"a": 1},
        rng.choice(INTEGERS),
    ))}  # fmt: skip


def bias_body(rng: Random) -> dict[str, Any]:
    """Return logit biases."""
    ids = [
        str(rng.choice((*INTEGERS, rng.randrange(2000))))
        for _ in range(rng.choice((1, 5, 300, 5000)))
    ]
    values = [rng.choice((-100, 100, 101, 0, False, True, None, *FLOATS)) for _ in ids]
    pairs = [
        [int(i) if rng.random() < 0.8 else rng.choice(TEXTS), v]
        for i, v in zip(ids, values, strict=True)
    ]
    return {"logit_bias": rng.choice((
        dict(zip(ids, values, strict=True)), pairs, dict.fromkeys(map(str, range(1024)), -100), {"x" * 5000: 1},
        [[1]], [1, 2], {str(i): 100 for i in range(1000)}, rng.choice(TEXTS), {"": 5}, {"1": [1]},
    ))}  # fmt: skip


def prompt_body(rng: Random) -> dict[str, Any]:
    """Return prompts as text, lists of texts and token ids."""
    ids = [
        rng.choice((*INTEGERS, rng.randrange(1024), 699, 700, 701))
        for _ in range(rng.choice((0, 1, 5, 600)))
    ]
    text = rng.choice(
        (*TEXTS, "a " * rng.choice((100, 5000, 300_000)), "<fim_prefix>" * 99, "\U0001f600" * 999)
    )
    body: dict[str, Any] = {"prompt": rng.choice((
        text, [text], [text] * rng.choice((2, 30, 2000)), ids, [ids], [ids, text], [[]], [], [1.5], [True], [[[1]]],
        [rng.randrange(1024) for _ in range(200)], None,
    ))}  # fmt: skip
    if rng.random() < 0.5:
        name = rng.choice(
            ("n", "best_of", "logprobs", "n_probs", "top_logprobs", "echo", "suffix", "max_tokens")
        )
        body[name] = rng.choice((1, 2, 5, True, rng.choice(INTEGERS), rng.choice(TEXTS)))
    return body
