"""Ghost text of llama.vim and minuet-ai.nvim in Neovim, with the settings of `turbopilot editors`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.asked import KEY, WRONG_KEY
from tests.clients.live import Live, live_server, wait_until
from tests.real_editors.cells import each
from tests.real_editors.documents import CHINESE, COMMENT, ENGLISH, TYPED
from tests.real_editors.neovim import NEOVIM_PLUGINS, Neovim, NeovimPlugin, neovim

pytestmark = pytest.mark.editors


def accepted(n: Neovim) -> tuple[str, str]:
    """Wait for ghost text, accept it with Tab and save; return its first line, and the saved document."""
    first = n.do("ghost").splitlines()[0]
    n.keys("\t")
    n.do("text", text=TYPED + first)
    return first, n.save()


def ghost_after(n: Neovim, more: str) -> str:
    """Type more text; return the ghost text that is visible when Neovim shows it."""
    n.keys(more)
    n.do("text", text=TYPED + more)
    return n.do("look")


@each(NEOVIM_PLUGINS, "ghost text", "Tab")
def test_ghost_text_is_shown_and_tab_accepts_it(
    live: Live, tmp_path: Path, plugin: NeovimPlugin
) -> None:
    with neovim(plugin, tmp_path, ENGLISH, live.url) as n:
        n.keys(TYPED)
        first, written = accepted(n)
    assert first.strip()
    assert written.startswith(ENGLISH.before + TYPED + first)
    assert written.endswith(ENGLISH.after)


@each(NEOVIM_PLUGINS, "Chinese text")
def test_chinese_text_stays_intact(live: Live, tmp_path: Path, plugin: NeovimPlugin) -> None:
    with neovim(plugin, tmp_path, CHINESE, live.url) as n:
        n.keys(f"{COMMENT}\r{TYPED.lstrip()}")  # Neovim indents the new line
        first, written = accepted(n)
    assert written.startswith(f"{CHINESE.before}{COMMENT}\n{TYPED}{first}")
    assert written.endswith(CHINESE.after)


@each(NEOVIM_PLUGINS, "server down")
def test_stopped_server_shows_no_ghost_text_until_it_is_back(
    model_cache: Path, tmp_path: Path, plugin: NeovimPlugin
) -> None:
    with live_server(model_cache) as server:
        port = str(server.port)
    with neovim(plugin, tmp_path, ENGLISH, server.url) as n:
        n.keys(TYPED)
        assert ghost_after(n, "a") == ""
        with live_server(model_cache, "--port", port):
            n.keys("\x7f")
            assert n.ghost_after_retyping().strip()


@each(NEOVIM_PLUGINS, "wrong key")
def test_only_the_right_key_shows_ghost_text(
    guarded: Live, tmp_path: Path, plugin: NeovimPlugin
) -> None:
    before = len(guarded.log)
    rejected = f"POST {plugin.route} 401"
    with neovim(plugin, tmp_path / "wrong", ENGLISH, guarded.url, WRONG_KEY) as n:
        n.keys(TYPED)
        wait_until(lambda: any(rejected in line for line in guarded.log[before:]))
        assert ghost_after(n, "a") == ""
    with neovim(plugin, tmp_path / "right", ENGLISH, guarded.url, KEY) as n:
        n.keys(TYPED)
        assert n.do("ghost").strip()
