#!/usr/bin/env python3
"""Count what one streamed completion passes through in this project, from its connection to its first token.

    python scripts/trace_request.py
    python scripts/trace_request.py --most-files 30 --most-types 14

The server runs in this process on a loopback socket, with a decoder of tests/support instead of llama.cpp. A first
request warms everything up; the second is counted, in all threads, by a profile function.

Counted from the client's `connect` until it has the frame with the first token; in the engine's thread until the step
that follows the one which computed this token:
- types: classes of turbopilot, converters, quantize and serve that are constructed or of which a method runs. A class
  counts as what its instance is, so a base class does not count beside it. Those of which the request gets instances
  of its own are marked with "*": what is left serves all requests.
- files: those of the same packages in which a line of a function runs, and those that define a counted type.
Not counted: what runs once at the start, and the decoder, which stands in for serve/llama. Not seen: classes without
an `__init__` in Python of which no method is called.

Exit code 1: more files or types than allowed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("turbopilot", "converters", "quantize", "serve")
sys.path.insert(0, str(ROOT))


class Trace:
    """Files and types of the code that runs while `is_on`."""

    def __init__(self) -> None:
        self.is_on = False
        self.computed_in: int | None = None  # the thread that computed the first token
        self.files: set[str] = set()
        self.types: set[str] = set()
        self.made: set[str] = set()  # those that are constructed
        self._seen: dict[CodeType, str | None] = {}

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """Note a call; for `sys.setprofile`."""
        if not self.is_on or event != "call":
            return
        code = frame.f_code
        if code.co_name == "step" and self.computed_in == threading.get_ident():
            sys.setprofile(None)
            return
        if code not in self._seen:
            self._seen[code] = _file_of(code.co_filename)
        if file := self._seen[code]:
            self.files.add(file)
        if code.co_argcount and code.co_varnames[0] in ("self", "cls", "_cls"):
            owner = frame.f_locals.get(code.co_varnames[0])
            kind = owner if isinstance(owner, type) else type(owner)
            if kind.__module__.split(".")[0] in PACKAGES:
                self.types.add(name := f"{kind.__module__}.{kind.__qualname__}")
                if code.co_name in ("__init__", "__new__"):
                    self.made.add(name)
                if home := _file_of(getattr(sys.modules[kind.__module__], "__file__", "") or ""):
                    self.files.add(home)


def _file_of(path: str) -> str | None:
    """A file of ours by its name below the root."""
    file = Path(path)
    if not file.is_absolute() or not file.is_relative_to(ROOT):
        return None
    name = file.relative_to(ROOT)
    return name.as_posix() if name.parts[0] in PACKAGES else None


def trace_request() -> Trace:
    """Serve two requests and trace the second."""
    trace = Trace()
    threading.setprofile(trace.profile)

    from serve.engine import Engine, EngineOptions
    from serve.http.app import create_app
    from serve.http.server import HttpServer, bind
    from serve.models import ModelPool, PooledModel
    from serve.models.loading import host
    from serve.models.service import ModelInfo
    from tests.support.fakes import FakeDecoder

    class Noting(FakeDecoder):
        """Says in which thread it computes; computes one token of the traced request."""

        def decode(self, batch):  # type: ignore[no-untyped-def]
            if trace.computed_in is not None:
                assert go_on.wait(60)
            rows = super().decode(batch)
            if trace.is_on and len(rows):
                trace.computed_in = threading.get_ident()
            return rows

    go_on, logged = threading.Event(), threading.Event()
    log = logging.getLogger("turbopilot.access")
    log.addFilter(lambda _: logged.set() or True)  # type: ignore[func-returns-value]
    log.setLevel(logging.INFO)
    decoder = Noting(n_seq=4)
    info = ModelInfo(decoder.name, decoder.n_ctx, decoder.n_vocab, 0)
    pool = ModelPool(
        [PooledModel(info, 1, lambda: host(Engine(decoder, EngineOptions(n_slots=4)), decoder))],
        memory=1,
    )
    server = HttpServer(create_app(pool), bind("127.0.0.1", 0), threads=8)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        _ask(server.port, "def add(a, b):\n").read()
        assert logged.wait(60)  # the last that is done for a request
        while server._server.active_channels or pool.statuses[0].running:
            time.sleep(0.001)
        trace.is_on = True
        response = _ask(server.port, "def sub(a, b):\n")
        trace.is_on = False
        go_on.set()
        response.read()
    finally:
        go_on.set()
        server.stop()
        thread.join()
        pool.close()
    return trace


def _ask(port: int, prompt: str) -> http.client.HTTPResponse:
    """Ask for a stream, on a connection of its own, and read it to its first token."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = {"prompt": prompt, "max_tokens": 4, "stream": True}
    headers = {"Connection": "close"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    frame = json.loads(response.readline().removeprefix(b"data: "))
    assert frame["choices"][0]["text"], frame
    return response


def main(arguments: Sequence[str] | None = None) -> int:
    """Trace, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most-files", type=int)
    parser.add_argument("--most-types", type=int)
    args = parser.parse_args(arguments)
    trace = trace_request()
    print(f"{len(trace.files)} files", *sorted(trace.files), sep="\n  ")
    marked = [f"{name}{'*' * (name in trace.made)}" for name in sorted(trace.types)]
    print(
        f"{len(marked)} types, {len(trace.made)} of them made for the request", *marked, sep="\n  "
    )
    too_many = [
        what
        for what, found, most in (
            ("files", trace.files, args.most_files),
            ("types", trace.types, args.most_types),
        )
        if most is not None and len(found) > most
    ]
    for what in too_many:
        print(f"too many {what}", file=sys.stderr)
    return int(bool(too_many))


if __name__ == "__main__":
    sys.exit(main())
