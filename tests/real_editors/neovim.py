"""Neovim with one plugin, in a pseudo-terminal, with the settings of `turbopilot editors`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.live import wait_until
from tests.clients.tools import Lines, talk
from tests.real_editors.documents import Document
from tests.real_editors.installed import folder_of_editors, printed_settings

DRIVER = Path(__file__).with_name("neovim_screen.py")
INIT = """\
vim.o.termguicolors = false
vim.o.swapfile = false
vim.opt.runtimepath:prepend("{plugin}")
{settings}
{more}
"""


@dataclass(frozen=True, slots=True)
class NeovimPlugin:
    """Plugin of Neovim.

    Attributes:
        name: argument of `turbopilot editors`, and its folder below `neovim`.
        title: name in the results.
        route: route of its requests, as logged by the server.
        more: further lines of init.lua: the colour by which the tests recognize ghost text, and settings without which
            the plugin shows none.
    """

    name: str
    title: str
    route: str
    more: str


LLAMA_VIM = NeovimPlugin(
    "llama-vim",
    "llama.vim",
    "/infill",
    'vim.api.nvim_set_hl(0, "llama_hl_fim_hint", { ctermfg = 202 })',
)
MINUET = NeovimPlugin(
    "minuet",
    "minuet-ai.nvim",
    "/v1/completions",
    """\
vim.api.nvim_set_hl(0, "MinuetVirtualText", { ctermfg = 202 })
vim.keymap.set("i", "<Tab>", function() require("minuet.virtualtext").action.accept() end)
vim.api.nvim_create_autocmd("BufEnter", { command = "Minuet virtualtext enable" })""",
)
NEOVIM_PLUGINS = (LLAMA_VIM, MINUET)


class Neovim:
    """Running Neovim, which edits `file`."""

    def __init__(self, lines: Lines, file: Path) -> None:
        self._lines = lines
        self._file = file

    def do(self, what: str, **more: str) -> str:
        """Run a command of neovim_screen.py."""
        found = self._ask(what, **more)
        assert "failed" not in found, found["failed"]
        return found["found"]

    def _ask(self, what: str, **more: str) -> dict[str, str]:
        self._lines.say({"do": what, **more})
        found = self._lines.hear()
        assert found is not None, "Neovim ended"
        return dict(found)

    def keys(self, keys: str) -> None:
        self.do("keys", keys=keys)

    def ghost_after_retyping(self) -> str:
        """Type the space before the cursor again, until there is ghost text; return it.

        minuet-ai.nvim drops what is typed within a second after a request.
        """
        found: dict[str, str] = {}

        def retyped() -> bool:
            nonlocal found
            self.keys("\x7f ")
            found = self._ask("ghost", seconds="5")
            return "found" in found

        wait_until(retyped)
        return found["found"]

    def save(self) -> str:
        """Save the document and return its text, once it differs from the file's text of before."""
        before = self._file.read_text("utf-8")
        self.keys("\x1b:w\r")
        wait_until(lambda: self._file.read_text("utf-8") not in (before, ""))
        return self._file.read_text("utf-8")


@contextmanager
def neovim(
    plugin: NeovimPlugin, home: Path, document: Document, url: str, key: str = ""
) -> Iterator[Neovim]:
    """Type at the empty line of a document; skip the test if Neovim or the plugin is missing."""
    folder = folder_of_editors()
    program, source = folder / "venv/bin/nvim", folder / "neovim" / plugin.name
    for what, path in (("Neovim", program), (plugin.title, source / "README.md")):
        if not path.is_file():
            pytest.skip(f"scripts/test_editors could not install {what}")
    file = document.write(home)
    settings = printed_settings(plugin.name, url, key)["lua"]
    init = home / "init.lua"
    init.write_text(INIT.format(plugin=source, settings=settings, more=plugin.more), "utf-8")
    asked = {
        "command": [str(program), "-u", str(init), "-i", "NONE", str(file)],
        "environ": {"HOME": str(home), "LANG": "C.UTF-8"},
    }
    with talk([str(folder / "venv/bin/python"), str(DRIVER), json.dumps(asked)]) as lines:
        editor = Neovim(lines, file)
        editor.do("text", text=document.after.strip().splitlines()[0])
        editor.keys(f"{document.line}GA")
        editor.do("text", text="-- INSERT --")
        yield editor
