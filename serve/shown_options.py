"""The options of a running server, as `/status/settings` shows them: without secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from serve.options import Option, nested_options

SET: Final = "set"
NOT_SET: Final = "not set"
# The user name and the password in a URL.
_LOGIN: Final = re.compile(r"(?<=://)[^/?#@\s]*@")


@dataclass(frozen=True, slots=True)
class ShownOption:
    """An option with its value as text; of a secret, only whether it is set."""

    flag: str
    value: str
    is_default: bool
    help: str


def shown_options(given: Mapping[str, Any], *groups: type) -> tuple[ShownOption, ...]:
    """Return the options of settings classes and of those nested in them.

    Args:
        given: the given values by option name, as for `read_settings`; they are shown as they were given.
        groups: the settings classes.
    """
    return tuple(_shown(o, given.get(o.name)) for group in groups for o in nested_options(group))


def _shown(o: Option, given: Any) -> ShownOption:
    is_default = given is None or o.value(given) == o.default
    flag, value = _flag(o), _text(o, o.default if given is None else given)
    if o.is_secret:
        value = NOT_SET if is_default else SET
    elif o.kind is bool:
        value = "on" if o.value(given) == _on(o) else "off"
    return ShownOption(flag, value, is_default, o.help)


def _flag(o: Option) -> str:
    """Return the first long flag; of a switch, the one without "no"."""
    if o.is_argument:
        return o.flags.upper()
    spellings = [f for f in re.split("[,/] *", o.flags) if f.startswith("--")]
    return next((f for f in spellings if not f.startswith("--no-")), spellings[0])


def _on(o: Option) -> bool:
    """Return the value for which a switch's flag stands. The first flag sets the opposite of the default."""
    return bool(o.default) == o.flags.startswith("--no-")


def _text(o: Option, value: Any) -> str:
    if value is None:
        return "auto" if o.auto else ""
    if isinstance(value, list | tuple):
        return ", ".join(_text(o, v) for v in value)
    return _LOGIN.sub("…@", f"{value:g}" if isinstance(value, float) else str(value))
