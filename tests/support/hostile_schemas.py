"""JSON schemas that are made to take long: ambiguous, deeply nested, or with huge numbers."""

from __future__ import annotations

import json
from typing import Any, Final

Schema = dict[str, Any]


def pattern(regex: str) -> Schema:
    return {"type": "string", "pattern": regex}


def array(items: object, **more: object) -> Schema:
    return {"type": "array", "items": items, **more}


def nested(depth: int, width: int) -> Schema:
    """Return `anyOf` of `width` equal schemas, `depth` times."""
    schema: Schema = {"type": "string"}
    for _ in range(depth):
        schema = {"anyOf": [schema] * width}
    return schema


def doubling(depth: int, key: str, first: Schema) -> Schema:
    """Return definitions that each mention the one before twice."""
    defs = {"d0": first}
    for i in range(1, depth + 1):
        defs[f"d{i}"] = {key: [{"$ref": f"#/$defs/d{i - 1}"}] * 2}
    return array({"$ref": f"#/$defs/d{depth}"}, **{"$defs": defs})


def recursive(*alternatives: Schema) -> Schema:
    """Return an array of `e`, which is any of these; they may refer to `#/$defs/e`."""
    return array({"$ref": "#/$defs/e"}, **{"$defs": {"e": {"anyOf": list(alternatives)}}})


E: Final = {"$ref": "#/$defs/e"}
DEEP_OPTIONAL: Schema = {"type": "string"}
for _ in range(40):
    others = {f"p{i}": {"type": "string"} for i in range(1, 6)}
    DEEP_OPTIONAL = {"type": "object", "properties": {"p0": DEEP_OPTIONAL, **others}}

HOSTILE: Final[dict[str, Schema]] = {
    "equal recursive arrays": recursive(*[array(E)] * 50, {"type": "string"}),
    "equal recursive arrays and objects": recursive(
        *[array(E), {"type": "object", "additionalProperties": E}] * 20
    ),
    "equal alternatives": nested(7, 3),
    "doubling anyOf": doubling(25, "anyOf", {"type": "string"}),
    "doubling allOf": doubling(25, "allOf", {"properties": {"a": {"type": "string"}}}),
    "doubling items": doubling(25, "prefixItems", {"type": "string"}),
    "product of anyOf": {
        "allOf": [{"anyOf": [pattern(f"a{i}"), pattern(f"b{i}")]} for i in range(20)]
    },
    "reference to itself": {"$ref": "#"},
    "lengths of strings": {"anyOf": [{"type": "string", "maxLength": i} for i in range(500)]},
    "arrays of lengths": {"anyOf": [array({"type": "string", "maxLength": i}) for i in range(300)]},
    "objects of lengths": {
        "anyOf": [
            {"type": "object", "additionalProperties": {"type": "string", "maxLength": i}}
            for i in range(300)
        ]
    },
    "ambiguous repetition": pattern("^(a|a)*b$"),
    "nested repetition": pattern("^(((a*)*)*)*b$"),
    "nested counts": pattern("^((((a{1,40}){1,40}){1,40}){1,40}){1,40}$"),
    "huge count": pattern("^a{1000000000}$"),
    "states of a position": pattern("^[ab]*a[ab]{300}$"),
    "states of all positions": pattern("^.*a.{400}$"),
    "gaps": pattern("^(.*a){30}.*b.{20}$"),
    "intersection": {"allOf": [pattern("^[ab]*a[ab]{300}$"), pattern("^[ab]*b[ab]{200}$")]},
    "many intersections": {"allOf": [pattern(f"^.*{c}.*$") for c in "abcdefghijklmnopqrst"]},
    "characters": pattern("^(\\w|[^a-f]|\\p{L}){0,400}$"),
    "common prefixes": {"enum": ["a" * i for i in range(1, 240)]},
    "many values": {"enum": [f"item{i:05d}" for i in range(2000)]},
    "one long value": {"const": "x" * 30_000},
    "deep value": {"const": json.loads("[" * 100 + "]" * 100)},
    "optional properties": {
        "type": "object",
        "properties": {f"p{i}": {"type": "string"} for i in range(600)},
    },
    "deep optional properties": DEEP_OPTIONAL,
    "huge arrays": array(array({}, minItems=10**6), minItems=10**6, maxItems=10**9),
    "huge strings": {"type": "string", "minLength": 10**9, "maxLength": 10**12},
    "huge objects": {"type": "object", "minProperties": 10**6},
    "remainders": {"type": "integer", "multipleOf": 1_000_003},
    "product of remainders": {"allOf": [{"multipleOf": n} for n in (997, 991)], "type": "integer"},
    "fine remainders": {"type": "number", "multipleOf": 1e-300},
    "huge range": {"type": "integer", "minimum": -(10**300), "maximum": 10**300},
    "its own options": {
        "type": "object",
        "x-guidance": {"whitespace_pattern": "( |  )*", "item_separator": "(,|,,)*"},
    },
}
