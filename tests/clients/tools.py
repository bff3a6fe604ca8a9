"""What scripts/test_clients prepared: npm packages, programs of PyPI, Vim's plugin. Knows nothing of tests of them."""

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
# The folder that scripts/test_clients made.
VARIABLE = "TURBOPILOT_CLIENTS"


class Missing(Exception):
    """Says why a client is not here."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The prepared folder; `found` gives {"version": …} or {"missing": why} of a client."""

    folder: Path
    found: dict[str, dict[str, str]]

    def require(self, client: str) -> None:
        """Raise Missing where the client could not be had."""
        entry = self.found.get(client, {"missing": "scripts/test_clients does not know it"})
        if why := entry.get("missing"):
            raise Missing(why)

    @property
    def python(self) -> Path:
        return self.folder / "venv/bin/python"

    def node(self, driver: str, *arguments: str) -> list[str]:
        """The command of a driver; it lies beside node_modules, where its imports are looked for."""
        target = self.folder / "node" / driver
        if not target.exists() or target.read_bytes() != (DRIVERS / driver).read_bytes():
            shutil.copyfile(DRIVERS / driver, target)
        return ["node", str(target), *arguments]


def prepared() -> Tools:
    """Find the prepared folder; raise Missing if there is none."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise Missing("scripts/test_clients installs the clients and runs this")
    path = Path(folder)
    return Tools(path, json.loads((path / "found.json").read_text("utf-8")))


class Lines:
    """A process that is spoken to in lines of JSON."""

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
        """The next line; None is the end."""
        line = self._said.get(timeout=PATIENCE)
        return None if line is None else json.loads(line)

    def rest(self) -> list[Any]:
        return list(iter(self.hear, None))

    def end(self, *, by_signal: bool) -> None:
        """Close the input, which most programs take for their end, and wait."""
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
    """Run a driver; it ends with the block, told by the end of its input or by a signal."""
    # Proxies of the person's are none of these tests' business: all traffic is on this machine.
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
