"""Ghost text of llama.vscode and vscode-fauxpilot in VS Code, with the settings of `turbopilot editors`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.asked import KEY, WRONG_KEY
from tests.clients.live import Live, live_server, wait_until
from tests.real_editors.cells import each
from tests.real_editors.documents import CHINESE, COMMENT, ENGLISH, TYPED, Document
from tests.real_editors.installed import PLUGINS, Plugin
from tests.real_editors.window import Window, settings_for, window

pytestmark = pytest.mark.editors

# llama.vscode shows a failed request as up to three notifications, which replace those of the request before.
MOST_NOTIFICATIONS = 3


def opened(
    plugin: Plugin, home: Path, settings: dict[str, Any], document: Document = ENGLISH
) -> AbstractContextManager[Window]:
    return window(plugin, home, settings, document.write(home).name, document.line)


def rejected(log: list[str], plugin: Plugin) -> int:
    return sum(f"POST {plugin.route} 401" in line for line in log)


@each(PLUGINS, "ghost text", "Tab")
def test_ghost_text_is_shown_and_tab_accepts_it(live: Live, tmp_path: Path, plugin: Plugin) -> None:
    with opened(plugin, tmp_path, settings_for(plugin, live.url)) as w:
        w.begin()
        w.type(TYPED)
        ghost = w.ghost()
        assert ghost.strip()
        w.press("Tab")
        written = w.save("arithmetic.py")
    assert written == ENGLISH.before + TYPED + ghost + ENGLISH.after


@each(PLUGINS, "Chinese text")
def test_chinese_text_stays_intact(live: Live, tmp_path: Path, plugin: Plugin) -> None:
    with opened(plugin, tmp_path, settings_for(plugin, live.url), CHINESE) as w:
        w.begin()
        w.type(f"{COMMENT}\n{TYPED.lstrip()}")  # VS Code indents the new line
        ghost = w.ghost()
        w.press("Tab")
        written = w.save("arithmetic.py")
    assert written == f"{CHINESE.before}{COMMENT}\n{TYPED}{ghost}{CHINESE.after}"


@each(PLUGINS, "server down")
def test_stopped_server_shows_no_ghost_text_until_it_is_back(
    model_cache: Path, tmp_path: Path, plugin: Plugin
) -> None:
    with live_server(model_cache) as server:
        port = str(server.port)
    with opened(plugin, tmp_path, settings_for(plugin, server.url)) as w:
        w.begin()
        w.type(TYPED)
        wait_until(w.failures)
        w.type("# no server ")
        seen = w.look()
        assert seen.ghost == ""
        assert len(seen.notifications) <= MOST_NOTIFICATIONS
        with live_server(model_cache, "--port", port):
            w.press(*["Backspace"] * 12)
            assert w.ghost_after_retyping().strip()


@each(PLUGINS, "wrong key")
def test_only_the_right_key_shows_ghost_text(guarded: Live, tmp_path: Path, plugin: Plugin) -> None:
    wrong, right = tmp_path / "wrong", tmp_path / "right"
    before = rejected(guarded.log, plugin)
    with opened(plugin, wrong, settings_for(plugin, guarded.url, WRONG_KEY)) as w:
        w.begin()
        w.type(TYPED)
        wait_until(w.failures)
        seen = w.look()
    assert seen.ghost == ""
    assert len(seen.notifications) <= MOST_NOTIFICATIONS
    assert 0 < rejected(guarded.log, plugin) - before <= len(TYPED)
    with opened(plugin, right, settings_for(plugin, guarded.url, KEY)) as w:
        w.begin()
        w.type(TYPED)
        assert w.ghost().strip()
