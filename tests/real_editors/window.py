"""A window of VS Code: code-server with one plugin and one folder, opened in a headless Chromium."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tests.clients.live import PATIENCE, wait_until
from tests.clients.tools import Lines, talk
from tests.real_editors.installed import Installed, Plugin, printed_settings, require

DRIVER = Path(__file__).with_name("window.mjs")
WIDTH, HEIGHT = 1000, 640
# Settings that keep VS Code to itself. None of them concerns completions.
QUIET: dict[str, Any] = {
    "telemetry.telemetryLevel": "off",
    "workbench.startupEditor": "none",
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.tips.enabled": False,
    "extensions.autoUpdate": False,
    "extensions.ignoreRecommendations": True,
    "update.mode": "none",
}
READY = "HTTP server listening on "


def settings_for(plugin: Plugin, url: str, key: str = "") -> dict[str, Any]:
    """Return the settings that `turbopilot editors` prints for this plugin."""
    return dict(json.loads(printed_settings(plugin.name, url, key)["json"]))


@dataclass(frozen=True, slots=True)
class Seen:
    """Visible ghost text ("" if there is none) and notifications."""

    ghost: str
    notifications: list[str]


class Window:
    """Open window; `home` holds the settings, logs and pictures, `project` is the open folder."""

    def __init__(self, lines: Lines, home: Path, plugin: Plugin) -> None:
        self._lines = lines
        self._plugin = plugin
        self.home = home
        self.project = home / "project"

    def do(self, what: str, **more: str) -> Any:
        """Run a command of window.mjs; a failure leaves a picture of the window in `home`."""
        answer = self._ask(what, **more)
        if "failed" in answer:
            file = self.home / "failed.png"
            self._ask("picture", file=str(file), selector="body", height=str(HEIGHT))
            raise AssertionError(f"{answer['failed']} (see {file})")
        return answer["found"]

    def _ask(self, what: str, **more: str) -> dict[str, Any]:
        self._lines.say({"do": what, **more})
        answer = self._lines.hear()
        assert answer is not None, "the browser ended"
        return dict(answer)

    def begin(self) -> None:
        """Wait until the plugin runs, then put the cursor into the document."""
        self.do("text", selector=".statusbar-item", text="Python")
        if keys := self._plugin.starts_with:
            self.press(keys)
            # Its first start shows a page of help, whose only button has the focus.
            self.do("text", selector=".tab.active", text="Information")
            self.do("dismiss", selector=".tab", text="Information", keys="Space")
        else:
            self.do("text", selector=".statusbar-item .codicon-light-bulb", text="")
        self.press("Control+1")
        self.do("text", selector=".monaco-editor.focused", text="")

    def type(self, text: str) -> None:
        self.do("type", text=text)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.do("press", keys=key)

    def ghost(self) -> str:
        """Wait for ghost text and return it."""
        return str(self.do("ghost")["ghost"])

    def ghost_after_retyping(self) -> str:
        """Type the space before the cursor again, until there is ghost text; return it."""
        found: dict[str, Any] = {}

        def retyped() -> bool:
            nonlocal found
            self.press("Backspace", "Space")
            found = self._ask("ghost", seconds="5")
            return "found" in found

        wait_until(retyped)
        return str(found["found"]["ghost"])

    def look(self) -> Seen:
        return Seen(**self.do("look"))

    def picture(self, file: Path, height: int = HEIGHT) -> None:
        """Write a PNG of the upper part of the editor with its tabs, without side bar and status bar."""
        self.do("picture", file=str(file), selector=".part.editor", height=str(height))

    def save(self, name: str) -> str:
        """Save the document and return its text, once it differs from the file's text of before."""
        file = self.project / name
        before = file.read_text("utf-8")
        self.press("Control+s")
        wait_until(lambda: file.read_text("utf-8") not in (before, ""))
        return file.read_text("utf-8")

    def failures(self) -> int:
        """Return the number of failed requests that the plugin has reported."""
        if self._plugin.error:
            return sum(self._plugin.error in n for n in self.look().notifications)
        logs = (self.home / "data/logs").rglob("*Fauxpilot.log")
        return sum(log.read_text("utf-8").count(self._plugin.failure) for log in logs)


@contextmanager
def window(
    plugin: Plugin, home: Path, settings: Mapping[str, Any], file: str, line: int
) -> Iterator[Window]:
    """Open a file of `home`/project with the cursor at the end of a line."""
    installed = require(plugin)
    (home / "extensions").mkdir()
    (home / "extensions" / plugin.name).symlink_to(installed.extension(plugin))
    file_of_settings = home / "data/User/settings.json"
    file_of_settings.parent.mkdir(parents=True)
    file_of_settings.write_text(json.dumps({**QUIET, **settings}, indent=2), "utf-8")
    with _code_server(installed, home) as url:
        path = f"vscode-remote://{urlsplit(url).netloc}{home / 'project' / file}:{line}:999"
        payload = json.dumps([["gotoLineMode", "true"], ["openFile", path]])
        asked = {
            "browser": installed.browser, "width": WIDTH, "height": HEIGHT,
            "url": f"{url}?folder={home / 'project'}&payload={quote(payload)}",
        }  # fmt: skip
        # Node looks for packages beside the file of the driver.
        driver = str(shutil.copy(DRIVER, installed.folder / "node" / DRIVER.name))
        with talk([installed.node, driver, json.dumps(asked)]) as lines:
            yield Window(lines, home, plugin)


@contextmanager
def _code_server(installed: Installed, home: Path) -> Iterator[str]:
    """Run code-server on a free port; yield its URL."""
    command = [
        installed.node, installed.code_server, "--auth", "none", "--bind-addr", "127.0.0.1:0",
        "--config", str(home / "config.yaml"), "--user-data-dir", str(home / "data"),
        "--extensions-dir", str(home / "extensions"), "--disable-telemetry", "--disable-update-check",
        "--disable-workspace-trust", "--disable-getting-started-override",
    ]  # fmt: skip
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environ = {**clean, "HOME": str(home), "EXTENSIONS_GALLERY": json.dumps({"serviceUrl": ""})}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield _url(process)
        finally:
            process.terminate()
            process.wait(PATIENCE)
            with suppress(ProcessLookupError):  # its extension hosts
                os.killpg(process.pid, signal.SIGKILL)


def _url(process: subprocess.Popen[str]) -> str:
    """Return the URL that code-server logs when it listens; read the rest of its log in a thread."""
    assert process.stdout
    log: list[str] = []
    for line in process.stdout:
        log.append(line)
        if READY in line:
            threading.Thread(target=log.extend, args=(process.stdout,), daemon=True).start()
            return line.split(READY)[1].strip()
    raise AssertionError("code-server did not start:\n" + "".join(log))
