"""Typed reads of JSON: a wrong type is refused by its field's name. Knows nothing of Flask, threads or models."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from turbopilot.base.errors import InvalidRequest


class Fields:
    """Typed reads of a JSON object. A wrong type raises InvalidRequest with the field's name.

    Args:
        values: the object.
        path: names it in errors, as "options." does.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self._values = values
        self._path = path

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def fail(self, name: str, wanted: str) -> NoReturn:
        """Refuse a field."""
        try:
            got = json.dumps(self._values.get(name), default=str)
        except RecursionError:  # what could be read cannot always be written
            got = "something nested deeply"
        shown = got if len(got) <= 40 else got[:37] + "..."
        raise InvalidRequest(
            f"{self._path}{name} must be {wanted}, not {shown}", param=self._path + name
        )

    def text(self, name: str, default: str = "") -> str:
        """A string. Halves of surrogate pairs, which JSON can hold and UTF-8 cannot, become "?"."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fail(name, "a string")
        return _clean(value)

    def texts(self, name: str, what: str = "a string or a list of strings") -> tuple[str, ...]:
        """A string or a list of them; nothing where it is absent."""
        value = self._values.get(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return (_clean(value),)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self.fail(name, what)
        return tuple(_clean(v) for v in value)

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(name, "true or false")
        return value

    def number(self, name: str, default: float, *, least: float, most: float = math.inf) -> float:
        """A finite number in a range."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(name, "a number")
        if not least <= value <= min(most, sys.float_info.max):  # a whole number may be larger
            self.fail(name, f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}")
        return float(value)

    def integer(
        self, name: str, default: int, *, least: int | None = None, most: int | None = None
    ) -> int:
        """A whole number in a range; 3.0 is one, as some languages write it."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(name, "a whole number")
        if least is not None and value < least:
            self.fail(name, f"at least {least}")
        if most is not None and value > most:
            self.fail(name, f"at most {most}")
        return value

    def seconds(self, name: str) -> float | None:
        """Milliseconds, in seconds; None where it is absent or, as llama.cpp has it, 0."""
        value = self.number(name, 0.0, least=0)
        return value / 1000 if value else None

    def mapping(self, name: str) -> dict[str, Any] | None:
        """A nested object as it is; None where it is absent."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, dict):
            self.fail(name, "an object")
        return value

    def raw(self, name: str) -> object:
        """Whatever is there; None where nothing is."""
        return self._values.get(name)

    def object(self, name: str) -> Fields:
        """A nested object; an empty one where it is absent."""
        return Fields(self.mapping(name) or {}, f"{self._path}{name}.")


def parse_body(data: bytes) -> Fields:
    """The JSON object that a request carries.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except ValueError as e:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise InvalidRequest(f"the body is not valid JSON: {e}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return Fields(value)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
