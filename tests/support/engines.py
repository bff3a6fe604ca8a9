"""Engines on loopback whose answers a test controls: each request runs a function of the test."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from serve.upstream.address import EngineAddress

Json = Mapping[str, Any]


class EngineExchange:
    """A request that an engine got, and its response."""

    def __init__(self, handler: EngineHandler, body: Any) -> None:
        self._handler = handler
        self.path = handler.path
        self.headers = handler.headers
        self.body = body

    def reply(self, value: Any, status: int = 200) -> None:
        """Send a whole response with JSON, or with these bytes."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self._handler.send_response(status)
        self._handler.send_header("Content-Length", str(len(data)))
        self._handler.end_headers()
        self._handler.wfile.write(data)

    def begin(self) -> None:
        """Begin a streamed response."""
        self._handler.send_response(200)
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()

    def send(self, data: bytes) -> None:
        """Send a part of a streamed response."""
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, value: Json | str) -> None:
        """Send a server-sent event."""
        text = value if isinstance(value, str) else json.dumps(value)
        self.send(f"data: {text}\n\n".encode())

    def line(self, value: Json) -> None:
        """Send a line of JSON, as Ollama does."""
        self.send(json.dumps(value).encode() + b"\n")

    def end(self) -> None:
        """End a streamed response."""
        self._handler.wfile.write(b"0\r\n\r\n")

    def break_off(self) -> None:
        """Close the connection in the middle of the response."""
        self._handler.close_connection = True
        self._handler.connection.shutdown(socket.SHUT_RDWR)

    def is_gone(self) -> bool:
        """Wait until the client closes its side; return whether it did."""
        return not self._handler.connection.recv(1)


Answer = Callable[[EngineExchange], None]


class EngineHandler(BaseHTTPRequestHandler):
    """Passes requests to the engine's functions."""

    protocol_version = "HTTP/1.1"
    server: EngineServer

    def log_message(self, *_: Any) -> None:
        """Write nothing."""

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: Any) -> None:
        exchange = EngineExchange(self, body)
        answer = self.server.engine.routes.get(self.path)
        with suppress(ConnectionError, BrokenPipeError):
            if answer is None:
                exchange.reply({"detail": "Not Found"}, 404)
            else:
                self.server.engine.seen.append(exchange)
                answer(exchange)


class EngineServer(ThreadingHTTPServer):
    """Server whose connections can be cut."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.connections: list[socket.socket] = []
        super().__init__(("127.0.0.1", 0), EngineHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, *_: Any) -> None:
        """Write nothing: tests cut connections."""


class FakeEngine:
    """An engine on a free port; `routes` are its answers by path, and `seen` its requests."""

    def __init__(self, routes: Mapping[str, Answer]) -> None:
        self.routes = dict(routes)
        self.seen: list[EngineExchange] = []
        self._server = EngineServer(self)
        self.address = EngineAddress("127.0.0.1", self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self._is_dead = False

    @property
    def url(self) -> str:
        return f"{self.address.name}/v1"

    def asked(self, path: str) -> list[EngineExchange]:
        """Return the requests for a route."""
        return [e for e in self.seen if e.path == path]

    def die(self) -> None:
        """Stop listening, and cut all connections, as a process that is killed."""
        if self._is_dead:
            return
        self._is_dead = True
        self._server.shutdown()
        self._server.socket.close()
        for connection in self._server.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()


@contextmanager
def engines(*routes: Mapping[str, Answer]) -> Iterator[list[FakeEngine]]:
    """Run an engine for each of these routes."""
    running = [FakeEngine(r) for r in routes]
    try:
        yield running
    finally:
        for engine in running:
            engine.die()


def always(value: Any, status: int = 200) -> Answer:
    """Return an answer with this JSON."""
    return lambda e: e.reply(value, status)


def listed(owner: str, **more: Any) -> Answer:
    """Return the answer of /v1/models with one model."""
    model = {"id": "the-model", "object": "model", "owned_by": owner, **more}
    return always({"object": "list", "data": [model]})


def llama_event(content: str, tokens: Sequence[int] = (), **more: Any) -> Json:
    """Return an event of llama-server's /completion."""
    return {"index": 0, "content": content, "tokens": list(tokens), "stop": False, **more}


def llama_end(reason: str = "limit", **more: Any) -> Json:
    """Return the last event of llama-server's /completion."""
    return {"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": reason, **more}


def continued(e: EngineExchange) -> str:
    """Return the text that `completes` answers: letters that depend on the prompt."""
    start = sum(e.body["prompt"])
    return "".join(chr(97 + (start + i) % 26) for i in range(e.body["n_predict"]))


def completes(e: EngineExchange) -> None:
    """Answer /completion of a vocabulary of bytes, one letter a token."""
    e.begin()
    for letter in continued(e):
        e.event(llama_event(letter, [ord(letter)]))
    e.event(llama_end(timings={"cache_n": 2, "prompt_ms": 5.0, "predicted_n": e.body["n_predict"]}))
    e.end()


def llama_routes(
    completion: Answer = completes, *, n_ctx: int = 256, slots: int = 4
) -> dict[str, Answer]:
    """Return the routes of a llama-server with a vocabulary of bytes."""
    props = {"default_generation_settings": {"n_ctx": n_ctx}, "total_slots": slots}
    return {
        "/v1/models": listed("llamacpp"),
        "/props": always(props),
        "/health": always({"status": "ok"}),
        "/tokenize": lambda e: e.reply({"tokens": list(e.body["content"].encode())}),
        "/completion": completion,
    }
