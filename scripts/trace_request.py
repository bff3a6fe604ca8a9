#!/usr/bin/env python3
"""Count the files and types that one streamed completion uses, from its connection to its first token.

    python scripts/trace_request.py
    python scripts/trace_request.py --most-files 52 --most-types 24

The server runs in this process on a loopback socket, with a fake decoder of tests/support instead of llama.cpp. The
first request warms up the server. The second is traced with a profile function in all threads.

The trace starts at the client's `connect` and ends when the client has the frame with the first token. In the engine's
thread it ends before the step that follows the one which computed this token. The results are:
- files: the files of turbopilot, converters, quantize and serve in which a function runs, and those that define a used
  type.
- types: classes of the same packages that are constructed or of which a method runs. Only the class of an instance
  counts, not its base classes.
- types made for the request, marked with "*": types with an instance that did not exist before the client connected.
  The other types serve all requests.
Code that runs once at the start is not counted, nor is the decoder, which replaces serve/llama. Classes without an
`__init__` in Python are not seen if no method of them is called.

Exit code 1: more files, or more types made for the request, than allowed.
"""

from __future__ import annotations

import argparse
import gc
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
    """Files and types of the code that runs while `is_on` is set."""

    def __init__(self) -> None:
        self.is_on = False
        self.computed_in: int | None = None  # the thread that computed the first token
        self.files: set[str] = set()
        self.types: set[str] = set()
        self.made: set[str] = set()  # types with a new instance
        # All objects that existed before. They are kept alive, so that new objects do not get their ids.
        self._old: list[object] = []
        self._old_ids: set[int] = set()
        self._seen: dict[CodeType, str | None] = {}

    def begin(self) -> None:
        """Start the trace."""
        self._old = gc.get_objects()
        self._old_ids = set(map(id, self._old))
        self.is_on = True

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """Record a call (a profile function for `sys.setprofile`)."""
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
                # "_cls" is the parameter of a named tuple's constructor.
                is_class = isinstance(owner, type)
                if code.co_varnames[0] == "_cls" if is_class else id(owner) not in self._old_ids:
                    self.made.add(name)
                if home := _file_of(getattr(sys.modules[kind.__module__], "__file__", "") or ""):
                    self.files.add(home)


def _file_of(path: str) -> str | None:
    """Return a file's path relative to the repository if it belongs to one of `PACKAGES`."""
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
    from serve.models.status import ModelInfo
    from tests.support.fakes import FakeDecoder

    class Noting(FakeDecoder):
        """Decoder that records its thread, and waits after the first token of the traced request."""

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
        [PooledModel(info, 1, lambda: host(Engine(decoder, EngineOptions(n_slots=4))))],
        memory=1,
    )
    server = HttpServer(create_app(pool), bind("127.0.0.1", 0), threads=8)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        _ask(server.port, "def add(a, b):\n").read()
        assert logged.wait(60)  # the access log is the last action for a request
        while server._server.active_channels or pool.statuses[0].running:
            time.sleep(0.001)
        trace.begin()
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
    """Request a stream on a new connection and read it up to its first token."""
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
    """Trace a request, print the counts, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most-files", type=int, default=52)
    parser.add_argument("--most-types", type=int, default=24)
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
            ("types", trace.made, args.most_types),
        )
        if len(found) > most
    ]
    for what in too_many:
        print(f"too many {what}", file=sys.stderr)
    return int(bool(too_many))


if __name__ == "__main__":
    sys.exit(main())
