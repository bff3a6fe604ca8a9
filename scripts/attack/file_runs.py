"""Run a command on a mutated file, and find out whether it kept the promises."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.client import HOST

from attack.file_kinds import Reader
from attack.processes import Ended, ForkServer, Limits
from attack.samples import TEXT, Samples, port_of
from attack.tally import faults_of
from turbopilot.base.errors import CorruptModel
from turbopilot.formats.gguf.file import read_gguf

REFUSED: frozenset[int] = frozenset((0, 2, 3, 4, 5, 6, 7, 8))
"""Exit codes of the documented errors; 1 is an unexpected error."""
_OLD = b"an older output, which only a whole new one may replace"
_ANSWER = 60.0  # seconds for a completion of one token


@dataclass(frozen=True, slots=True)
class Seen:
    """A command's end, and the violations: columns of the table."""

    ended: Ended
    faults: tuple[str, ...]
    said: str


def feed(
    server: ForkServer,
    reader: Reader,
    source: Path,
    samples: Samples,
    limits: Limits,
    *,
    replaces: bool,
) -> Seen:
    """Let a command read a mutated file; `replaces` an older output."""
    folder = source.parent if source.name == "source" else source.parent.parent
    target = folder / "output"
    target.mkdir(exist_ok=True)
    output = target / "out.gguf"
    before = _OLD if reader.writes and replaces else None
    if before:
        output.write_bytes(before)
    arguments = reader.arguments(source, output, samples)
    server.begin(arguments, target, limits, TURBOPILOT_CACHE=str(folder / "cache"))
    notes: list[str] = []
    faults: list[str] = []
    if reader.serves:
        faults += _asked(server, limits, notes)
    ended = server.finish()
    faults += faults_of(
        ended.code, ended.output, set(REFUSED), late=ended.late, memory=ended.memory, limit=limits.memory
    )  # fmt: skip
    if reader.writes:
        faults += _torn(output, before, ended.code, notes)
    said = f"turbopilot {' '.join(arguments)}\nexit code {ended.code}, {ended.cpu:.1f} s of CPU, "
    said += f"{ended.memory / 1e6:.0f} MB\n{chr(10).join(notes)}\n{ended.output}"
    return Seen(ended, tuple(dict.fromkeys(faults)), said)


def _torn(output: Path, before: bytes | None, code: int, notes: list[str]) -> Iterator[str]:
    """Yield "torn" if an output is not whole, or something else was left."""
    left = sorted(p.name for p in output.parent.iterdir() if p != output)
    if left:
        notes.append(f"left behind: {left}")
        yield "torn"
    if code:
        after = output.read_bytes() if output.exists() else None
        if after != before:
            notes.append("the command failed, and the output is not as before")
            yield "torn"
        return
    try:
        read_gguf(output)
    except CorruptModel as e:
        notes.append(f"the output is not usable: {e}")
        yield "torn"


def _asked(server: ForkServer, limits: Limits, notes: list[str]) -> Iterator[str]:
    """Ask a starting server for a token and a chat, then end it; it may refuse its file instead."""
    port = port_of(server, limits.wall / 2)
    if not port:
        if not server.ended(0):
            notes.append("neither ready nor ended")
            yield "hang"
            server.signal(signal.SIGKILL)
        return
    chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    bodies = {
        "/v1/completions": {"prompt": TEXT[:400], "max_tokens": 1},
        "/v1/chat/completions": chat,
        "/infill": {"input_prefix": "def f(", "input_suffix": "\n", "n_predict": 1},
    }
    for path, body in bodies.items():
        try:
            status = _posted(port, path, body)
        except (OSError, http.client.HTTPException) as e:
            notes.append(f"POST {path}: {e!r}")
            if not isinstance(e, ConnectionError):
                yield "hang"
            break
        notes.append(f"POST {path}: {status}")
        if status >= 500 and status != 503:
            yield "status 5xx"
    server.signal(signal.SIGTERM)


def _posted(port: int, path: str, body: object) -> int:
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=_ANSWER)) as connection:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status
