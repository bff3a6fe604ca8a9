"""Editors and clients that the server can be used from, as data. A leaf: knows nothing of the server or the console.

Each entry says where its settings are described and which version of that was read.
"""

from __future__ import annotations

import re
from typing import Final

from turbopilot.editors.address import Address, address_at, address_of
from turbopilot.editors.entry import EVIDENCE, FIM, Editor, Setting
from turbopilot.editors.libraries import LIBRARIES
from turbopilot.editors.more_editors import OTHERS
from turbopilot.editors.render import Target, fill
from turbopilot.editors.tabby import TABBY
from turbopilot.editors.vim import VIM
from turbopilot.editors.vscode import VSCODE

__all__ = [
    "DEFAULT_MODEL",
    "EDITORS",
    "EVIDENCE",
    "FIM",
    "Address",
    "Editor",
    "Setting",
    "Target",
    "address_at",
    "address_of",
    "fill",
    "find",
]

EDITORS: Final[tuple[Editor, ...]] = (*VSCODE, *TABBY, *VIM, *OTHERS, *LIBRARIES)
# What FauxPilot's and the original's engine was called. The server answers to any name.
DEFAULT_MODEL: Final = "codegen"


def find(name: str) -> Editor | None:
    """An entry by its name or its plugin's, whatever the letter case and the separators.

    >>> find("llama.vim").name
    'llama-vim'
    >>> find("nonesuch")
    """
    return _BY_NAME.get(_plain(name))


def _plain(name: str) -> str:
    return re.sub(r"[\s._-]+", "-", name.strip().lower())


_BY_NAME: Final = {_plain(n): e for e in EDITORS for n in (e.plugin, e.name)}
