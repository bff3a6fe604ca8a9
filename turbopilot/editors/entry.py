"""What is known of an editor's plugin: values only. Knows nothing of the server or of how a setting is printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Format: TypeAlias = Literal[
    "json", "yaml", "toml", "lua", "vim", "elisp", "sh", "python", "javascript", "text"
]
# How sure we are. Tested: our tests run the client itself. Replayed: our tests send again what it was seen to send.
# Documented: its documentation or its source says so, and no more.
Evidence: TypeAlias = Literal["tested", "replayed", "documented"]
# Who frames the text around the cursor. Apart: the plugin sends what is before and after, and the server frames them
# as the model was trained. Tokens: the plugin writes the model's own tokens into the prompt, so that it must know the
# model. None: it sends what is before the cursor only.
Fim: TypeAlias = Literal["apart", "tokens", "none"]

EVIDENCE: dict[Evidence, str] = {
    "tested": "our tests run this client",
    "replayed": "our tests send again what this client was seen to send",
    "documented": "from its documentation or source; we have not run it",
}
FIM: dict[Fim, str] = {
    "apart": "yes, with any model that infills",
    "tokens": "yes, where the plugin knows the model's tokens",
    "none": "no",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """Text to put somewhere.

    Attributes:
        where: a file, a command or a place in the editor.
        format: of the text; it decides how values are quoted.
        template: the text, with places as `render.fill` knows them.
    """

    where: str
    format: Format
    template: str


@dataclass(frozen=True, slots=True)
class Editor:
    """A plugin, a client or a library that can be pointed at the server.

    Attributes:
        name: what a person types for it.
        editor: which program it belongs to.
        plugin: what it is called there.
        route: what it calls, by POST; * stands for the model's name.
        evidence: how sure we are of all this.
        settings: what to write, and where.
        source: where the settings are described.
        read: the version or the date of that.
        stream: it shows a suggestion while it is written.
        fim: how it fills in the middle.
        cancel: it leaves when a suggestion is not wanted any more; None is unknown.
        auth: it can send a key.
        notes: what else matters, a sentence or two each.
        captured: in the recorded requests, the beginning of its `client`; "" where there are none.
    """

    name: str
    editor: str
    plugin: str
    route: str
    evidence: Evidence
    settings: tuple[Setting, ...]
    source: str
    read: str
    stream: bool
    fim: Fim
    cancel: bool | None
    auth: bool
    notes: tuple[str, ...] = ()
    captured: str = ""
