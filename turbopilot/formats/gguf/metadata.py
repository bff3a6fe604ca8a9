"""Typed reads of a GGUF's metadata: a value of another type counts as absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from turbopilot.formats.gguf.cursor import Value

PerLayer: TypeAlias = "int | list[int] | None"
_T = TypeVar("_T", str, int, bool)


@dataclass(frozen=True, slots=True)
class TypedMetadata:
    """Metadata by key."""

    values: Mapping[str, Value]

    def get(self, key: str, kind: type[_T]) -> _T | None:
        """Return a value of exactly this type."""
        value = self.values.get(key)
        return value if type(value) is kind else None

    def many(self, key: str, kind: type[_T]) -> list[_T]:
        """Return the elements of exactly this type."""
        value = self.values.get(key)
        return [v for v in value if type(v) is kind] if isinstance(value, list) else []

    def text(self, key: str) -> str:
        """Return a string; "" if absent."""
        return self.get(key, str) or ""

    def number(self, key: str) -> float | None:
        """Return an integer or a float."""
        value = self.values.get(key)
        return float(value) if isinstance(value, (int, float)) and type(value) is not bool else None

    def per_layer(self, key: str) -> PerLayer:
        """Return one number if all layers have the same."""
        many = self.many(key, int)
        return (many[0] if len(set(many)) == 1 else many) if many else self.get(key, int)
