"""Hypothesis strategies for request bodies that a schema of `/openapi.json` allows, or almost allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from tests.support.described import Body, Document, resolved

Values = st.SearchStrategy[Any]
Schema = Mapping[str, Any]

SCALARS: Values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 200),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["", "x", "\ud800", "\0", "json", 10**400, -(2**63), 1e308, 5e-324, 2**31]),
)
JSON: Values = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def values(document: Document, schema: Schema) -> Values:
    """Return a strategy for values of the schema's type; they may violate its other conditions."""
    schema = resolved(document, schema)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    if "anyOf" in schema and "type" not in schema:
        return st.one_of([values(document, s) for s in schema["anyOf"]])
    if "type" not in schema:
        return JSON
    kinds = schema["type"]
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return st.one_of([_of_kind(document, schema, kind) for kind in kinds])


def _of_kind(document: Document, schema: Schema, kind: str) -> Values:
    least, most = schema.get("minimum"), schema.get("maximum")
    if kind == "integer":
        edges = [v for v in (least, most) if v is not None] or [0]
        return st.integers(least, most) | st.sampled_from(edges)
    if kind == "number":
        return st.floats(least, most, allow_nan=False, allow_infinity=False)
    if kind == "string":
        return st.text(min_size=schema.get("minLength", 0), max_size=20)
    if kind == "array":
        if "prefixItems" in schema:
            return st.tuples(*(values(document, s) for s in schema["prefixItems"])).map(list)
        most_items = min(schema.get("maxItems", 4), 4)
        items = values(document, schema["items"]) if "items" in schema else JSON
        return st.lists(items, min_size=schema.get("minItems", 0), max_size=most_items)
    if kind == "object":
        return _objects(document, schema)
    return {"boolean": st.booleans(), "null": st.none()}[kind]


def _objects(document: Document, schema: Schema) -> Values:
    if "properties" not in schema:
        inner = schema.get("additionalProperties")
        free = values(document, inner) if isinstance(inner, dict) else JSON
        return st.dictionaries(st.text(max_size=8), free, max_size=4)
    needed = schema.get("required", ())
    fields = {name: values(document, s) for name, s in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: fields[name] for name in needed},
        optional={name: s for name, s in fields.items() if name not in needed},
    )


@st.composite
def bodies(draw: st.DrawFn, document: Document, schema: Schema, base: Body) -> Body:
    """Draw a small body with up to six more fields, some of them with a random JSON value."""
    fields = resolved(document, schema)["properties"]
    body = dict(base)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=6, unique=True)):
        wrong = draw(st.integers(0, 5)) == 0
        body[name] = draw(JSON if wrong else values(document, fields[name]))
    return body
