"""Editors and clients of the server, and their settings: the entries of editors.toml."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from turbopilot.editors.address import Address, address_at, address_of
from turbopilot.editors.template import Setting, Target, fill, filled

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DEFAULT_MODEL", "EDITORS", "EVIDENCE", "FIM", "NAMES", "Address", "Editor", "Setting", "Target", "address_at",
    "address_of", "fill", "filled", "find",
]  # fmt: skip

EVIDENCE: Final = {
    "tested": "our tests run this client",
    "replayed": "our tests send this client's recorded requests",
    "rebuilt": "our tests send requests built as its source code builds them",
    "documented": "taken from its documentation or source code, not run by us",
}
# How a plugin does fill-in-the-middle. "apart": it sends prefix and suffix, and the server adds the model's tokens.
# "tokens": it writes the model's tokens into the prompt, so it must know the model. "none": it sends only the prefix.
FIM: Final = {
    "apart": "yes, with any model that supports it",
    "tokens": "yes, if the plugin knows the model's tokens",
    "none": "no",
}
# FauxPilot's and the original TurboPilot's model name. The server accepts any name.
DEFAULT_MODEL: Final = "codegen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Editor:
    """Plugin, client or library that can use the server.

    Attributes:
        name: argument of `turbopilot editors`.
        editor: program that the plugin is for.
        plugin: name of the plugin.
        route: route of its POST requests; * stands for the model's name.
        evidence: how the entry was checked; a key of EVIDENCE.
        settings: settings that point it to the server.
        source: URLs that describe the settings.
        read: version or date of the source.
        stream: shows a completion while it is generated.
        fim: how it does fill-in-the-middle; a key of FIM.
        cancel: disconnects when a completion is no longer needed; None if unknown.
        auth: can send an API key.
        notes: further facts, one or two sentences each.
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

    @property
    def editors(self) -> tuple[str, ...]:
        """Names of the programs as they are typed, such as vscode."""
        return tuple(_plain(e.removeprefix("the ")) for e in self.editor.split(", "))


def find(name: str) -> tuple[Editor, ...]:
    """Return the entry of a plugin, or all entries for an editor; letter case and separators are ignored.

    >>> [e.name for e in find("llama.vim")]
    ['llama-vim']
    >>> [e.name for e in find("Emacs")]
    ['minuet-el', 'copilot-el']
    >>> find("nonesuch")
    ()
    """
    plain = _plain(name)
    if entry := _BY_NAME.get(plain):
        return (entry,)
    plain = _ALIASES.get(plain, plain)
    return tuple(e for e in EDITORS if plain in e.editors)


def _plain(name: str) -> str:
    return re.sub(r"[\s._-]+", "", name.lower())


def _read() -> tuple[Editor, ...]:
    data = tomllib.loads((resources.files(__name__) / "editors.toml").read_text("utf-8"))
    return tuple(_entry(entry, data["notes"]) for entry in data["editor"])


def _entry(entry: dict[str, Any], shared: dict[str, str]) -> Editor:
    settings = tuple(Setting(**s) for s in entry.pop("settings"))
    notes = (shared[n[1:]] if n.startswith("@") else n for n in entry.pop("notes", ()))
    return Editor(**entry, settings=settings, notes=tuple(notes))


EDITORS: Final = _read()
NAMES: Final = {
    **{editor: editor for e in EDITORS for editor in e.editors},
    **{name: e.name for e in EDITORS for name in (e.plugin, e.name)},
}
"""Names that `find` knows, and which entry or editor they stand for."""
_BY_NAME: Final = {_plain(n): e for e in EDITORS for n in (e.plugin, e.name)}
_ALIASES: Final = {
    "code": "vscode", "nvim": "neovim", "intellij": "jetbrains", "pycharm": "jetbrains", "node": "nodejs",
}  # fmt: skip
