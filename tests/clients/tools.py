"""Clients that scripts/test_clients installed (npm packages, PyPI programs, Vim's plugin), and their processes."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.live import PATIENCE

DRIVERS = Path(__file__).parent
# Environment variable with the folder of scripts/test_clients.
VARIABLE = "TURBOPILOT_CLIENTS"


class Missing(Exception):
    """A client is not installed; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Folder of installed clients; `found` maps a client to {"version": …} or {"missing": reason}."""

    folder: Path
    found: dict[str, dict[str, str]]

    def require(self, client: str) -> None:
        """Raise Missing if the client is not installed."""
        entry = self.found.get(client, {"missing": "unknown to scripts/test_clients"})
        if why := entry.get("missing"):
            raise Missing(why)

    @property
    def python(self) -> Path:
        return self.folder / "venv/bin/python"

    def node(self, driver: str, *arguments: str) -> list[str]:
        """Return the command of a driver, copied next to node_modules, where Node looks for its imports."""
        target = self.folder / "node" / driver
        if not target.exists() or target.read_bytes() != (DRIVERS / driver).read_bytes():
            shutil.copyfile(DRIVERS / driver, target)
        return ["node", str(target), *arguments]


def prepared() -> Tools:
    """Return the installed clients; raise Missing if there are none."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise Missing("run scripts/test_clients, which installs the clients and runs these tests")
    path = Path(folder)
    return Tools(path, json.loads((path / "found.json").read_text("utf-8")))


class Lines:
    """Process with JSON lines as its input and output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._said: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._said.put(line)
        self._said.put(None)

    def say(self, value: object) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """Return the next line's value; None at the end."""
        line = self._said.get(timeout=PATIENCE)
        return None if line is None else json.loads(line)

    def rest(self) -> list[Any]:
        return list(iter(self.hear, None))

    def end(self, *, by_signal: bool) -> None:
        """Close the input, at which most programs end, and wait for the end of the process."""
        assert self._process.stdin
        self._process.stdin.close()
        if by_signal:
            self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._reader.join(PATIENCE)


@contextmanager
def talk(
    command: Sequence[str], environ: dict[str, str] | None = None, *, by_signal: bool = False
) -> Iterator[Lines]:
    """Run a driver; on exit end it by closing its input or with a signal."""
    # All traffic is on this machine, so the user's proxies do not apply.
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    with subprocess.Popen(
        list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**clean, **(environ or {})},
    ) as process:  # fmt: skip
        lines = Lines(process)
        try:
            yield lines
        finally:
            lines.end(by_signal=by_signal)
