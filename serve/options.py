"""Declaration of the options of `serve`: fields of settings classes, annotated with an `Option`.

The flag, the environment variables, the key in a TOML file, the limits and the help text all derive from it.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from turbopilot.base.option_values import check_limits, number_or_auto, one_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Option:
    """An option, as the annotation of a field: `port: Annotated[int, Option("-p, --port", "Port.")] = 80`.

    `flags` are those of the command line. The first flag of a switch such as "--no-ahead/--ahead" sets the opposite of
    the field's default. A name without a dash is a positional argument. `options_of` sets `field`, `kind` and
    `default`.
    """

    flags: str
    help: str
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()  # in any letter case; a Literal's choices are filled in
    auto: bool = False  # accept the word auto, the default, which is None in the field
    convert: Callable[[str, Any], Any] | None = None  # (flag, given value) → value
    env: tuple[str, ...] = ()  # more variables; TURBOPILOT_NAME overrides them
    metavar: str | None = None
    name: str = ""  # of the command's parameter; by default the last long flag
    is_model: bool = False  # in a TOML file, a relative path is first looked up next to that file
    is_secret: bool = False  # not shown in errors
    field: str = ""
    kind: type = str  # bool, int, float, str, Path, or list (of str)
    default: Any = None

    @property
    def is_argument(self) -> bool:
        """Whether the option is a positional argument."""
        return not self.flags.startswith("-")

    @property
    def keys(self) -> tuple[str, ...]:
        """Names in a TOML file."""
        spellings = self.flags.partition("/")[0].split(", ")
        return tuple(s.removeprefix("--") for s in spellings if s.startswith("--")) or (self.flags,)

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables; earlier ones override later ones."""
        return (f"TURBOPILOT_{self.name.upper()}", *self.env)

    def value(self, given: Any, called: str = "") -> Any:
        """Return the field's value.

        Args:
            given: value from the command line, the environment or a file; None means the default.
            called: name of the option in errors; "" means its flag.

        Raises:
            InvalidInput: the value is out of range or not one of the choices.
        """
        if given is None or (self.auto and str(given).lower() == "auto"):
            return self.default
        called = called or f"--{self.keys[0]}"
        value: Any = str(given) if self.auto else given
        if self.kind is list:
            return self.convert(called, value) if self.convert else tuple(value)
        if self.choices:
            value = one_of(called, value, self.choices)
        elif self.kind is bool:
            return value != self.default
        elif self.auto and not self.convert:
            return number_or_auto(called, value, self.least, self.most)
        elif self.kind in (int, float) and not self.auto:
            check_limits(called, value, self.least, self.most)
        if self.kind is Path:  # a text, if the value did not pass through Typer
            value = Path(value)
        return self.convert(called, value) if self.convert else value


def options_of(group: type) -> Iterator[Option]:
    """Yield the options that a settings class declares, without those of nested classes."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        if get_origin(hints[field.name]) is Annotated:
            yield _bound(field, *get_args(hints[field.name]))


def nested_options(group: type) -> Iterator[Option]:
    """Yield the options that a settings class and the classes nested in it declare."""
    yield from options_of(group)
    for inner in _nested(group).values():
        yield from nested_options(inner)


def _nested(group: type) -> dict[str, type]:
    """Return the settings classes that are nested in a settings class, by field."""
    made: dict[str, Any] = {f.name: f.default_factory for f in fields(group)}
    return {name: kind for name, kind in made.items() if isinstance(kind, type)}


def _bound(field: Field[Any], hint: Any, option: Option) -> Option:
    return replace(
        option,
        name=option.name or option.keys[-1].replace("-", "_"),
        choices=get_args(hint) if get_origin(hint) is Literal else option.choices,
        field=field.name,
        kind=_kind(hint),
        default=field.default,
    )


def _kind(hint: Any) -> type:
    """Return int for `int` and `int | None`, list for a tuple, str for a Literal."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(h for h in get_args(hint) if h is not types.NoneType)
    kind: type = {tuple: list, Literal: str}.get(get_origin(hint), hint)
    return kind


def read_settings(group: type[T], given: Mapping[str, Any], **more: Any) -> T:
    """Return an instance of a settings class, with its nested classes filled in.

    Args:
        group: the class.
        given: the given values by option name; see `Option.value`.
        more: fields that are not options.

    Raises:
        InvalidInput: a value cannot be used; the message names the option.
    """
    values = {o.field: o.value(given.get(o.name)) for o in options_of(group)}
    values |= {field: read_settings(inner, given) for field, inner in _nested(group).items()}
    return group(**values, **more)
