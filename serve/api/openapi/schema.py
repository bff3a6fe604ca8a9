"""JSON Schema in few words: fields of requests, records of answers. Pure; knows no dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Schema: TypeAlias = dict[str, object]

STRING: Final[Schema] = {"type": "string"}
WHOLE: Final[Schema] = {"type": "integer", "minimum": 0}
NUMBER: Final[Schema] = {"type": "number"}
FLAG: Final[Schema] = {"type": "boolean"}


def text(what: str, **more: object) -> Schema:
    """A field for a string. As with all fields, null is absent."""
    return {"type": ["string", "null"], "description": what, **more}


def flag(what: str, default: bool = False) -> Schema:
    """A field for true or false."""
    return {"type": ["boolean", "null"], "description": what, "default": default}


def number(
    what: str, default: float | None = None, *, least: float, most: float | None = None
) -> Schema:
    """A field for a number."""
    return _limited("number", what, default, least, most)


def whole(
    what: str, default: int | None = None, *, least: int | None = None, most: int | None = None
) -> Schema:
    """A field for a whole number; 3.0 is one."""
    return _limited("integer", what, default, least, most)


def _limited(
    kind: str, what: str, default: float | None, least: float | None, most: float | None
) -> Schema:
    told = {"default": default, "minimum": least, "maximum": most}
    limits = {k: v for k, v in told.items() if v is not None}
    return {"type": [kind, "null"], "description": what, **limits}


def texts(what: str) -> Schema:
    """A field for a string or a list of strings."""
    return {"type": ["string", "array", "null"], "items": STRING, "description": what}


def nested(what: str, fields: Mapping[str, Schema]) -> Schema:
    """A field for an object with fields of its own."""
    return {"type": ["object", "null"], "properties": dict(fields), "description": what}


def anything(what: str) -> Schema:
    """A field for an object whose content is not ours to say."""
    return {"type": ["object", "null"], "description": what}


def either(what: str, *schemas: Schema) -> Schema:
    """A field that has several forms."""
    return {"description": what, "anyOf": list(schemas)}


def needed(field: Schema) -> Schema:
    """The same field where it may be neither null nor absent: its name goes into `body`'s `required`."""
    kinds = field.get("type")
    if not isinstance(kinds, list):
        return field
    kinds = [k for k in kinds if k != "null"]
    return {**field, "type": kinds[0] if len(kinds) == 1 else kinds}


def body(
    what: str, fields: Mapping[str, Schema], required: Sequence[str] = (), **more: object
) -> Schema:
    """A request. Fields that nobody knows are ignored."""
    found: Schema = {"type": "object", "description": what, "properties": dict(fields), **more}
    return {**found, "required": list(required)} if required else found


def record(fields: Mapping[str, Schema], optional: Sequence[str] = (), what: str = "") -> Schema:
    """An object of an answer: these fields and no others, all of them but the optional ones always."""
    told: Schema = {"description": what} if what else {}
    required = [name for name in fields if name not in optional]
    return {
        "type": "object",
        **told,
        "properties": dict(fields),
        "required": required,
        "additionalProperties": False,
    }


def listed(items: Schema) -> Schema:
    """A list of an answer."""
    return {"type": "array", "items": items}


def one_of(*values: str | bool | None) -> Schema:
    """One of these values."""
    return {"enum": list(values)}


def or_null(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Schema:
    """A schema by the name that it has in the document."""
    return {"$ref": f"#/components/schemas/{name}"}
