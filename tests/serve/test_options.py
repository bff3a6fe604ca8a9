"""Declaration of options: an annotated field defines the flag, variables, TOML keys, limits and value."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from serve.options import Option, options_of, read_settings
from turbopilot.base.errors import InvalidInput
from turbopilot.commands.serve_flags import all_options


@dataclass(frozen=True)
class Bulb:
    watts: Annotated[int | None, Option("-w, --watts", "Power.", auto=True, least=1)] = None


@dataclass(frozen=True)
class Lamp:
    name: str
    color: Annotated[Literal["red", "blue"], Option("--color", "Color.")] = "red"
    is_lit: Annotated[bool, Option("--dark/--lit", "Start dark.")] = True
    seconds: Annotated[
        float, Option("--hours", "Time.", env=("HOURS",), least=0, convert=lambda _, h: 3600 * h)
    ] = 60.0
    bulb: Bulb = field(default_factory=Bulb)


def test_settings_without_values_are_the_defaults() -> None:
    assert read_settings(Lamp, {}, name="a") == Lamp("a")


def test_values_reach_the_fields_of_nested_settings() -> None:
    given = {"color": "BLUE", "dark": True, "hours": 2.0, "watts": "40"}
    assert read_settings(Lamp, given, name="a") == Lamp("a", "blue", False, 7200.0, Bulb(40))
    assert read_settings(Lamp, {"watts": "AUTO", "dark": False}, name="a") == Lamp("a")


def test_names_are_derived_from_the_flags() -> None:
    hours = next(o for o in options_of(Lamp) if o.field == "seconds")
    assert (hours.name, hours.keys) == ("hours", ("hours",))
    assert hours.variables == ("TURBOPILOT_HOURS", "HOURS")
    assert [o.keys for o in options_of(Bulb)] == [("watts",)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"color": "bleu"}, "--color bleu: no such choice"),
        ({"hours": -1.0}, "--hours -1.0: must not be negative"),
        ({"watts": "0"}, "--watts 0: must be at least 1"),
        ({"watts": "many"}, "--watts many: not a number"),
    ],
)
def test_error_of_an_invalid_value_names_the_flag(given: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        read_settings(Lamp, given, name="a")
    assert caught.value.hint


def test_keys_and_variables_of_options_are_unique() -> None:
    options = [o for _, o in all_options() if not o.is_argument and o.name != "models"]
    for names in ([k for o in options for k in o.keys], [v for o in options for v in o.variables]):
        assert max(Counter(names).values()) == 1
    assert all(o.help for o in options)
