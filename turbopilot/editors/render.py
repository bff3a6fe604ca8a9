"""Settings with an address in them: a template's places are filled, quoted as its format wants. Knows no plugin.

Places, in double angle brackets:

    url, url/v1/…        the address, with a route
    host, port, scheme, path   its parts
    model                the model's name
    key                  the key; the whole line is left out where there is none
    bearer               a header with the key; likewise
    key or dummy         the key, or the word dummy: some clients will not start without
    no key, with key     nothing; the whole line is left out where there is one, or none
    request              a request for a completion, as JSON
    zed format, twinny template, fim prefix, fim suffix, fim middle   see `fim`
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass

from turbopilot.base.errors import InvalidInput
from turbopilot.editors.address import Address
from turbopilot.editors.entry import Format, Setting
from turbopilot.editors.fim import family_of

_PLACE = re.compile(r"<<([^<>]+)>>")


@dataclass(frozen=True, slots=True)
class Target:
    """What the settings are to lead to.

    Attributes:
        address: the server's.
        model: a name for it, which some plugins show or guess tokens from.
        key: for a server that wants one; "" is none.

    Raises:
        InvalidInput: a name or a key that no setting could hold.
    """

    address: Address
    model: str
    key: str = ""

    def __post_init__(self) -> None:
        if not self.model.isascii() or not self.model.isprintable() or not self.model.strip():
            raise InvalidInput(
                f"--model {self.model!r}: must be printable ASCII",
                hint="any name does: the server takes what it does not know for its own model",
            )
        # The key itself is not repeated: errors end up in logs.
        if not all("!" <= c <= "~" for c in self.key):
            raise InvalidInput(
                "--api-key: must be printable ASCII without spaces",
                hint="give it as `turbopilot serve --api-key` has it",
            )


def fill(setting: Setting, target: Target) -> str:
    """The setting's text, without a line break at its end."""
    lines = [line for line in setting.template.strip("\n").split("\n") if _stays(line, target)]
    return "\n".join(
        _PLACE.sub(lambda m: _value(m[1], setting.format, target), line).rstrip() for line in lines
    )


def _stays(line: str, target: Target) -> bool:
    places = set(_PLACE.findall(line))
    if target.key:
        return "no key" not in places
    return not places & {"key", "bearer", "with key"}


def _value(place: str, kind: Format, target: Target) -> str:
    if place in ("no key", "with key"):
        return ""
    address, family = target.address, family_of(target.model)
    if place == "url" or place.startswith("url/"):
        return quote(address.url + place.removeprefix("url"), kind)
    values = {
        "host": address.host,
        "port": str(address.port or {"http": 80, "https": 443}[address.scheme]),
        "scheme": address.scheme,
        "path": address.path,
        "model": target.model,
        "key": target.key,
        "bearer": f"Authorization: Bearer {target.key}",
        "key or dummy": target.key or "dummy",
        "request": _request(target.model),
        "zed format": family.zed,
        "twinny template": family.twinny,
        "fim prefix": family.prefix,
        "fim suffix": family.suffix,
        "fim middle": family.middle,
    }
    return quote(values[place], kind)


def _request(model: str) -> str:
    body = {
        "model": model,
        "prompt": "def fib(n):\n",
        "suffix": "\nprint(fib(10))\n",
        "max_tokens": 60,
        "temperature": 0.2,
    }
    return json.dumps(body)


def quote(text: str, kind: Format) -> str:
    """The text as a string of the format; of plain text, as it is.

    >>> quote("it's", "vim")
    "'it''s'"
    """
    if kind == "text":
        return text
    if kind == "sh":
        return shlex.quote(text)
    if kind == "vim":
        return "'" + text.replace("'", "''") + "'"
    # JSON's strings are also those of the others, as long as nothing but quotes and backslashes needs an escape.
    return json.dumps(text, ensure_ascii=False)
