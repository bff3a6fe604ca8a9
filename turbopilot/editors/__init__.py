"""Editors and clients of the server: the entries of editors.toml, each with the source of its settings."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from turbopilot.editors.address import Address, address_at, address_of
from turbopilot.editors.template import Setting, Target, fill

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DEFAULT_MODEL", "EDITORS", "EVIDENCE", "FIM", "Address", "Editor", "Setting", "Target", "address_at",
    "address_of", "fill", "find",
]  # fmt: skip

EVIDENCE: Final = {
    "tested": "our tests run this client",
    "replayed": "our tests send this client's recorded requests",
    "documented": "from its documentation or source; we have not run it",
}
# Fill-in-the-middle. Apart: the plugin sends prefix and suffix, and the server adds the model's tokens. Tokens: the
# plugin writes the model's tokens into the prompt, so that it must know the model. None: it sends the prefix only.
FIM: Final = {
    "apart": "yes, with any model that infills",
    "tokens": "yes, if the plugin knows the model's tokens",
    "none": "no",
}
# Name of FauxPilot's and the original TurboPilot's engine. The server accepts any name.
DEFAULT_MODEL: Final = "codegen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Editor:
    """A plugin, a client or a library that can be pointed at the server.

    Attributes:
        name: argument of `turbopilot editors`.
        editor: program that the plugin is for.
        plugin: name of the plugin.
        route: route that it POSTs to; * stands for the model's name.
        evidence: how the entry was checked, a key of EVIDENCE.
        settings: texts to write.
        source: where the settings are described.
        read: version or date of the source.
        stream: it shows a completion while it is generated.
        fim: how it fills in the middle, a key of FIM.
        cancel: it disconnects from an unwanted completion; None is unknown.
        auth: it can send a key.
        notes: other facts, a sentence or two each.
        captured: prefix of its `client` in the recorded requests; "" if there are none.
    """

    name: str
    editor: str
    plugin: str
    route: str
    evidence: str
    settings: tuple[Setting, ...]
    source: str
    read: str
    stream: bool
    fim: str
    cancel: bool | None = None
    auth: bool
    notes: tuple[str, ...] = ()
    captured: str = ""


def find(name: str) -> Editor | None:
    """Return an entry by its name or its plugin's, in any letter case, with any separators.

    >>> find("llama.vim").name
    'llama-vim'
    >>> find("nonesuch")
    """
    return _BY_NAME.get(_plain(name))


def _plain(name: str) -> str:
    return re.sub(r"[\s._-]+", "-", name.strip().lower())


def _read() -> tuple[Editor, ...]:
    data = tomllib.loads((resources.files(__name__) / "editors.toml").read_text("utf-8"))
    return tuple(_entry(entry, data["notes"]) for entry in data["editor"])


def _entry(entry: dict[str, Any], shared: dict[str, str]) -> Editor:
    settings = tuple(Setting(**s) for s in entry.pop("settings"))
    notes = (shared[n[1:]] if n.startswith("@") else n for n in entry.pop("notes", ()))
    return Editor(**entry, settings=settings, notes=tuple(notes))


EDITORS: Final = _read()
_BY_NAME: Final = {_plain(n): e for e in EDITORS for n in (e.plugin, e.name)}
