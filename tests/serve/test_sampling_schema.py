"""Texts that fit a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from serve.decoder import Tokenizer
from serve.request import SamplingParams
from serve.sampling import Sampler, seed_sequence
from serve.sampling.json_schema import SchemaConstraint, SchemaVocabulary, schema_text
from tests.support.hostile_schemas import HOSTILE
from turbopilot.base.errors import InvalidRequest
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.model import LlamaModel, ModelParameters

SCHEMA: Mapping[str, object] = {
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


class Words:
    """The bundled model's vocabulary, and constraints over it."""

    def __init__(self, model: LlamaModel) -> None:
        self.model, self.n = model, model.n_vocab
        self.zeros = np.zeros(self.n, dtype=np.float32)
        self.ends = [model.eos, *(self.tokens(c)[0] for c in '"}')]
        self._vocabulary = SchemaVocabulary(cast(Tokenizer, model), self.n)

    def constraint(self, schema: Mapping[str, object]) -> SchemaConstraint:
        return self._vocabulary.constraint(schema_text(schema))

    def tokens(self, text: str) -> list[int]:
        return self.model.tokenize(text, parse_special=False)

    def accepts(self, schema: Mapping[str, object], text: str) -> bool:
        constraint = self.constraint(schema)
        for token in self.tokens(text):
            if not constraint.allows(token):
                return False
            constraint.accept(token)
        return constraint.allows(self.model.eos)

    def generate(self, schema: Mapping[str, object], seed: int, most: int) -> tuple[str, bool]:
        """Return text generated from random logits, and whether it ended with an end token."""
        sampler = Sampler(
            SamplingParams(temperature=1, top_p=1, schema="…"),
            seed_sequence(seed, 0),
            constraint=self.constraint(schema),
        )
        rng, tokens = np.random.default_rng(seed), list[int]()
        while len(tokens) < most:
            row = rng.standard_normal(self.n).astype(np.float32) * 2
            row[self.ends] += 7  # so that it ends soon
            token = sampler.pick(row, tokens)
            sampler.accept(token)
            if self.model.is_eog(token):
                break
            tokens.append(token)
        data = b"".join(map(self.model.piece, tokens))
        return data.decode("utf-8", "replace"), len(tokens) < most


@pytest.fixture(scope="module")
def words(demo_gguf: Path) -> Iterator[Words]:
    model = LlamaModel(read_gguf(demo_gguf), ModelParameters(vocab_only=True))
    yield Words(model)
    model.close()


@pytest.mark.parametrize("seed", range(5))
def test_generated_json_matches_the_schema(words: Words, seed: int) -> None:
    text, ended = words.generate(SCHEMA, seed, 400)
    assert ended, text
    value = json.loads(text)
    assert len(value["name"]) <= 5
    assert 1 <= len(value["sizes"]) <= 3
    assert all(isinstance(n, int) for n in value["sizes"])
    assert value["kind"] in ("a", "b")


def test_end_is_allowed_only_where_the_text_may_end(words: Words) -> None:
    eos = words.model.eos
    constraint = words.constraint({"enum": ["ab", "ac"]})
    for token in words.tokens('"ac"'):
        assert not constraint.allows(eos)
        masked = constraint.mask(words.zeros)
        assert masked[token] == 0
        assert masked[eos] == -np.inf
        constraint.accept(token)
    masked = constraint.mask(words.zeros)
    assert np.flatnonzero(masked > -np.inf).tolist() == [eos]
    constraint.accept(eos)


def test_mask_and_allows_agree(words: Words) -> None:
    row = np.arange(words.n, dtype=np.float32)
    row.setflags(write=False)
    constraint = words.constraint({"enum": ["é", 15, [None]]})
    for token in [None, *words.tokens('"')]:
        if token is not None:
            constraint.accept(token)
        masked = constraint.mask(row)
        allowed = [constraint.allows(t) for t in range(words.n)]
        assert masked.dtype == np.float32
        assert (masked > -np.inf).tolist() == allowed
        assert masked[allowed].tolist() == row[allowed].tolist()
        assert any(allowed)


def test_schema_never_allows_special_tokens(words: Words) -> None:
    constraint = words.constraint({"type": "string"})
    constraint.accept(words.tokens('"')[0])
    special = [t for t in range(words.n) if not words.model.piece(t)]
    assert special
    assert not any(constraint.allows(t) for t in special)


@pytest.mark.parametrize("token", [-1, 10**6, "y"])
def test_accepting_a_forbidden_token_raises(words: Words, token: int | str) -> None:
    constraint = words.constraint({"const": "x"})
    with pytest.raises(InvalidRequest, match="forbids"):
        constraint.accept(token if isinstance(token, int) else words.tokens(token)[0])
    constraint.accept(words.tokens('"')[0])


def test_copies_advance_independently(words: Words) -> None:
    first = words.constraint({"enum": ["a", "b"]})
    first.accept(words.tokens('"')[0])
    second = first.copy()
    first.accept(words.tokens("a")[0])
    second.accept(words.tokens("b")[0])
    assert first.allows(words.tokens('"')[0])
    assert second.allows(words.tokens('"')[0])
    assert not second.allows(words.tokens("b")[0])


def test_model_without_an_end_token_can_be_constrained(
    words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words.model, "is_eog", lambda _: False)
    constraint = Words(words.model).constraint({"const": 1})
    constraint.accept(words.tokens("1")[0])
    assert (constraint.mask(words.zeros) == -np.inf).all()


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string"}, '"ab c"', '"a\x1b"'),
        ({"type": "string"}, '"a\\n"', '"a\n"'),
        ({"type": "string"}, '"é"', '"a"b"'),
        ({"type": "string", "pattern": "^a.*$"}, '"ab"', '"ba"'),
        ({"type": "string", "pattern": "b"}, '"abc"', '"ac"'),
        ({"enum": ['x" space{3,2} y']}, '"x\\" space{3,2} y"', '"x"'),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "null"}}}, "null", "{}"),
        ({"type": "array", "uniqueItems": True, "items": {"type": "integer"}}, "[1, 2]", "[1,  2]"),
        ({}, '{"a": [1, 2.5, "é\\n"], "b": null}', '{"a": [1, }'),
        ({"type": "object"}, "{}", "[]"),
    ],
)
def test_schema_decides_which_text_is_allowed(
    words: Words, schema: Mapping[str, object], good: str, bad: str
) -> None:
    assert words.accepts(schema, good)
    assert not words.accepts(schema, bad)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("character", ["[", "a"])
def test_hostile_schema_is_refused_or_takes_bounded_work(
    words: Words, name: str, character: str
) -> None:
    """Choose each token so that as many readings of the text as possible stay open."""
    wanted = words.tokens(character)[0]
    refusal = ""
    try:
        constraint = words.constraint(HOSTILE[name])
        for _ in range(60):
            masked = constraint.mask(words.zeros)
            token = wanted if masked[wanted] == 0 else int(masked.argmax())
            if words.model.is_eog(token):
                break
            constraint.accept(token)
    except InvalidRequest as e:
        refusal = str(e)
    assert not refusal or refusal.startswith("the JSON schema cannot be used: ")


@pytest.mark.parametrize(
    ("reason", "schema"),
    [
        ("not present", {"$ref": "https://example.com/schema.json"}),
        ("not present", {"$ref": "file:///etc/passwd"}),
        ("not present", {"allOf": [{"items": {"$ref": "http://example.com"}}]}),
        ("does not exist", {"$ref": "#/$defs/missing"}),
        ("Invalid type", {"type": "integre"}),
        ("repetition operator", {"type": "string", "pattern": "*"}),
        ("unclosed", {"type": "string", "pattern": "^[a$"}),
        ("look-around", {"type": "string", "pattern": "^(?=a)$"}),
        ("no text fits", {"$ref": "#"}),
        ("Unsatisfiable", {"anyOf": [False]}),
        ("the limit is 32768", {"enum": ["x" * 40_000]}),
        ("multipleOf values", {"type": "integer", "multipleOf": 1_000_003}),
        ("multipleOf values", {"items": [{"multipleOf": 997}, {"multipleOf": 991}]}),
        ("not JSON compliant", {"const": float("nan")}),
        ("hex escape", {"const": "\ud800"}),
        ("out of range", {"const": 10**400}),
    ],
)
def test_unsupported_schema_is_rejected_with_the_reason(
    words: Words, reason: str, schema: Mapping[str, object]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        words.constraint(schema).allows(0)
    assert caught.value.param == "json_schema"
    assert reason in str(caught.value)


@pytest.mark.parametrize("depth", [200, 5000])
def test_deeply_nested_schema_is_rejected(words: Words, depth: int) -> None:
    schema: dict[str, object] = {}
    for _ in range(depth):
        schema = {"items": schema}
    with pytest.raises(InvalidRequest, match=r"recursion limit|too deeply"):
        words.constraint(schema)


def test_small_multiples_are_supported(words: Words) -> None:
    assert words.accepts({"type": "integer", "multipleOf": 5}, "15")
    assert not words.accepts({"type": "integer", "multipleOf": 5}, "16")
    prices = {"items": {"multipleOf": 0.01, "type": "number"}}
    assert words.accepts(prices, "[0.25]")
    assert not words.accepts(prices, "[0.255]")
