"""JSON schemas as grammars, and text generated with them."""

from __future__ import annotations

import ctypes
import json
from typing import Any

import llama_cpp
import numpy as np
import pytest

from serve.llama.grammar import json_schema_to_gbnf
from serve.request import SamplingParams
from serve.sampling import Sampler, seed_sequence
from tests.serve.test_sampling_grammar import size, tokens_of
from turbopilot.base.errors import InvalidRequest
from turbopilot.llama.grammar import LlamaConstraint


def text_of(vocab: Any, tokens: list[int]) -> str:
    buffer = ctypes.create_string_buffer(256)
    pieces = []
    for token in tokens:
        n = llama_cpp.llama_token_to_piece(vocab, token, buffer, 256, 0, False)
        pieces.append(buffer.raw[:n])
    return b"".join(pieces).decode("utf-8", "replace")


def generate(vocab: Any, grammar: str, seed: int, most: int = 200) -> tuple[str, bool]:
    """Return text generated from random logits, and whether it ended with an end token."""
    sampler = Sampler(
        SamplingParams(temperature=1, top_p=1, grammar=grammar),
        seed_sequence(seed, 0),
        constraint=LlamaConstraint(vocab, grammar),
    )
    rng, tokens = np.random.default_rng(seed), list[int]()
    for _ in range(most):
        row = rng.standard_normal(size(vocab)).astype(np.float32) * 2
        row[llama_cpp.llama_vocab_eos(vocab)] += 8  # so that it ends as soon as allowed
        token = sampler.pick(row, tokens)
        sampler.accept(token)
        if llama_cpp.llama_vocab_is_eog(vocab, token):
            return text_of(vocab, tokens), True
        tokens.append(token)
    return text_of(vocab, tokens), False


def accepts(constraint: LlamaConstraint, vocab: Any, text: str) -> bool:
    for token in tokens_of(vocab, text):
        if not constraint.allows(token):
            return False
        constraint.accept(token)
    return constraint.allows(llama_cpp.llama_vocab_eos(vocab))


JSON_VALUE = json_schema_to_gbnf({})
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "sizes": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
        "kind": {"enum": ["a", "b"]},
        "next": {"$ref": "#/$defs/node"},
    },
    "required": ["name", "sizes", "kind"],
    "additionalProperties": False,
    "$defs": {"node": {"type": "object", "properties": {"node": {"$ref": "#/$defs/node"}}}},
}


@pytest.mark.parametrize("seed", range(5))
def test_generated_json_matches_the_schema(vocab: Any, seed: int) -> None:
    text, ended = generate(vocab, json_schema_to_gbnf(SCHEMA), seed)
    assert ended
    value = json.loads(text)
    # Random tokens may contain invalid UTF-8, which decodes to more characters than the grammar counts.
    assert len(value["name"].replace("\ufffd", "")) <= 5
    assert 1 <= len(value["sizes"]) <= 3
    assert all(isinstance(n, int) for n in value["sizes"])
    assert value["kind"] in ("a", "b")


def test_grammar_forbids_control_characters_in_strings(vocab: Any) -> None:
    for schema in ({"type": "string"}, {"type": "string", "pattern": "^a.*$"}):
        constraint = LlamaConstraint(vocab, json_schema_to_gbnf(schema))
        assert accepts(constraint, vocab, '"ab c"')
        for bad in ('"a\x1b"', '"a\n"', '"a"b"', '"a\x7f"'):
            constraint = LlamaConstraint(vocab, json_schema_to_gbnf(schema))
            assert not accepts(constraint, vocab, bad)


def test_empty_schema_allows_json_and_forbids_other_text(vocab: Any) -> None:
    good, bad = '{"a": [1, 2.5, "é\\n"], "b": null}', '{"a": [1, }'
    assert accepts(LlamaConstraint(vocab, JSON_VALUE), vocab, good)
    assert not accepts(LlamaConstraint(vocab, JSON_VALUE), vocab, bad)


@pytest.mark.parametrize(
    ("reason", "schema"),
    [
        ("not a local reference", {"$ref": "https://example.com/schema.json"}),
        ("not a local reference", {"$ref": "http://example.com/schema.json"}),
        ("not a local reference", {"$ref": "file:///etc/passwd"}),
        ("not a local reference", {"allOf": [{"items": {"$ref": "https://example.com"}}]}),
        ("not a local reference", {"properties": {"$ref": {"type": "string"}}}),
        ("not in", {"$ref": "#/$defs/missing"}),
        ("Unrecognized", {"type": "integre"}),
        ("not between 0 and 400", {"type": "string", "minLength": 10**9}),
        ("not between 0 and 400", {"type": "array", "items": {}, "maxItems": 10**9}),
        ("pattern repeats", {"type": "string", "pattern": "^a{1000000000}$"}),
        ("pattern repeats", {"type": "string", "pattern": "^(a|b){0, 99999999999999999999}$"}),
        ("Pattern must start", {"type": "string", "pattern": "a"}),
        ("cannot be used", {"type": "string", "pattern": "^*$"}),
        ("too deeply", {"properties": {f"p{i}": {"type": "null"} for i in range(1100)}}),
        ("the limit is 32768", {"enum": ["x" * 40_000]}),
        # strings that the converter does not escape and that would become part of the grammar
        ("quotation marks", {"enum": ['x" space{3,2} y']}),
        # brackets at which the converter would loop forever
        ("unmatched", {"type": "string", "pattern": "^]$"}),
        ("unmatched", {"type": "string", "pattern": "^a}$"}),
        ("unmatched", {"type": "string", "pattern": "^[a$"}),
        ("unmatched", {"type": "string", "pattern": "^a$\\"}),
    ],
)
def test_unsupported_schema_is_rejected_with_the_reason(
    reason: str, schema: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        json_schema_to_gbnf(schema)
    assert caught.value.param == "json_schema"
    assert reason in str(caught.value)


def test_deeply_nested_schema_is_rejected() -> None:
    schema: dict[str, object] = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(InvalidRequest, match="too deeply"):
        json_schema_to_gbnf(schema)
