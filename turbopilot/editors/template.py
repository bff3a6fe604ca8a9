"""Templates of settings: placeholders are filled in and quoted for the setting's format.

Placeholders, in double angle brackets:

    url, url/v1/…        URL of the server, with a route
    host, port, scheme, path   parts of the URL
    model                name of the model
    key                  API key; without a key, the line is left out
    bearer               Authorization header with the key; without a key, the line is left out
    key or dummy         API key, or the word dummy, for clients that require a key
    no key               nothing; the line is left out if there is a key
    with key             nothing; the line is left out if there is no key
    request              a completion request, as JSON
    zed format, twinny template, fim prefix, fim suffix, fim middle   see `Family`
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from turbopilot.base.errors import InvalidInput
from turbopilot.editors.address import Address

_WITHOUT: Final = re.compile(r"<<(no|with) key>>")
_PLACE: Final = re.compile(r"<<([^<>]+)>>")


class Family(NamedTuple):
    """Model family: a part of its models' names, its names in Zed and Twinny, and its fill-in-the-middle tokens."""

    part: str
    zed: str
    twinny: str
    prefix: str
    suffix: str
    middle: str


# Sources of the names: Zed's docs/src/ai/edit-prediction.md, Twinny's src/common/constants/models.ts.
_STARCODER: Final = Family(
    "starcoder", "star_coder", "starcoder", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"
)
_FAMILIES: Final = (
    _STARCODER,
    Family("qwen", "qwen", "codeqwen", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    Family("codellama", "code_llama", "codellama", "<PRE>", "<SUF>", "<MID>"),
    Family("deepseek", "deepseek_coder", "deepseek", "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)  # fmt: skip


def family_of(model: str) -> Family:
    """Return the family of a model, by its name; for unknown names StarCoder's, whose tokens most models use.

    >>> family_of("Qwen2.5-Coder-1.5B").zed
    'qwen'
    >>> family_of("codegen").twinny
    'starcoder'
    """
    return next((f for f in _FAMILIES if f.part in model.lower()), _STARCODER)


@dataclass(frozen=True, slots=True)
class Setting:
    """Setting to write into a file, a shell or a dialog."""

    where: str  # name of the file, shell or dialog
    format: str  # how values are quoted: json, yaml, toml, lua, vim, elisp, sh, python, javascript or text
    template: str  # text with placeholders


@dataclass(frozen=True, slots=True)
class Target:
    """Server that the settings point to.

    Attributes:
        address: address of the server.
        model: name of the model. Some plugins show it, some derive fill-in-the-middle tokens from it.
        key: API key; "" for none.
    """

    address: Address
    model: str
    key: str = ""

    def __post_init__(self) -> None:
        if not self.model.isascii() or not self.model.isprintable() or not self.model.strip():
            raise InvalidInput(
                f"--model {self.model!r}: must be printable ASCII",
                hint="give any other name: the server uses its default model for unknown names",
            )
        # The message does not contain the key, because errors end up in logs.
        if not all("!" <= c <= "~" for c in self.key):
            raise InvalidInput(
                "--api-key: must be printable ASCII without spaces",
                hint="give the value of `turbopilot serve --api-key`",
            )


def fill(setting: Setting, target: Target) -> str:
    """Return the setting's text with the placeholders filled in, without a final line break."""
    kept = (x for x in setting.template.strip("\n").split("\n") if _stays(x, target))
    text = _WITHOUT.sub("", "\n".join(kept))
    filled = _PLACE.sub(lambda m: _quote(_value(m[1], target), setting.format), text)
    return "\n".join(line.rstrip() for line in filled.split("\n"))


def filled(settings: Sequence[Setting], target: Target) -> list[dict[str, str]]:
    """Return the location, format and text of each setting that is not empty for this target."""
    return [
        {"where": s.where, "format": s.format, "text": text}
        for s in settings
        if (text := fill(s, target))
    ]


def _stays(line: str, target: Target) -> bool:
    places = set(_PLACE.findall(line))
    if target.key:
        return "no key" not in places
    return not places & {"key", "bearer", "with key"}


def _value(place: str, target: Target) -> str:
    address, family = target.address, family_of(target.model)
    if place == "url" or place.startswith("url/"):
        return address.url + place.removeprefix("url")
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
    return values[place]


def _request(model: str) -> str:
    texts = {"prompt": "def fib(n):\n", "suffix": "\nprint(fib(10))\n"}
    return json.dumps({"model": model, **texts, "max_tokens": 60, "temperature": 0.2})


def _quote(text: str, kind: str) -> str:
    """Return the text, quoted for the format.

    >>> _quote("it's", "vim")
    "'it''s'"
    """
    if kind == "text":
        return text
    if kind == "sh":
        return shlex.quote(text)
    if kind == "vim":
        return "'" + text.replace("'", "''") + "'"
    # The other formats accept JSON strings, as long as only quotes and backslashes are escaped.
    return json.dumps(text, ensure_ascii=False)
