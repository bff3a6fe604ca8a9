"""Editors and clients that the server can be used from: the entries of editors.toml.

Each entry names the place where its settings are described, and the version of that.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from turbopilot.editors.address import Address, address_at, address_of
from turbopilot.editors.template import Target, fill_template

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
    "replayed": "our tests send again what this client was seen to send",
    "documented": "from its documentation or source; we have not run it",
}
# Who frames the text around the cursor. Apart: the plugin sends what is before and after, and the server frames them
# as the model was trained. Tokens: the plugin writes the model's own tokens into the prompt, so that it must know the
# model. None: it sends what is before the cursor only.
FIM: Final = {
    "apart": "yes, with any model that infills",
    "tokens": "yes, where the plugin knows the model's tokens",
    "none": "no",
}
# What FauxPilot's and the original's engine was called. The server answers to any name.
DEFAULT_MODEL: Final = "codegen"


@dataclass(frozen=True, slots=True)
class Setting:
    """Text to put somewhere.

    Attributes:
        where: a file, a command or a place in the editor.
        format: of the text, which decides how values are quoted: json, yaml, toml, lua, vim, elisp, sh, python,
            javascript or text.
        template: the text, with places as `template` describes them.
    """

    where: str
    format: str
    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Editor:
    """A plugin, a client or a library that can be pointed at the server.

    Attributes:
        name: what people type for it.
        editor: which program it belongs to.
        plugin: its name there.
        route: what it calls, by POST; * stands for the model's name.
        evidence: how sure we are of all this, a key of EVIDENCE.
        settings: what to write, and where.
        source: where the settings are described.
        read: the version or the date of that.
        stream: it shows a completion while it is written.
        fim: how it fills in the middle, a key of FIM.
        cancel: it disconnects when a completion is not wanted any more; None is unknown.
        auth: it can send a key.
        notes: what else matters, a sentence or two each.
        captured: the beginning of its `client` in the recorded requests; "" if there are none.
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


def fill(setting: Setting, target: Target) -> str:
    """Return the setting's text, without a line break at its end."""
    return fill_template(setting.template, setting.format, target)


def find(name: str) -> Editor | None:
    """Return an entry by its name or its plugin's, whatever the letter case and the separators.

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
