"""The socket and waitress's threads: the outermost shell. Knows nothing of JSON or llama.cpp's API.

The port is bound before the model is loaded: a port in use is known at once, not after a minute.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from waitress import create_server, wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import ErrorTask
from waitress.utilities import RequestEntityTooLarge

from serve.app import create_app
from serve.engine import Engine
from serve.http_errors import Fault, error_body
from serve.report import how_to_use
from serve.runner import EngineRunner
from serve.service import CompletionService, ModelInfo
from serve.settings import HTTP_THREADS, MAX_BODY_BYTES, MAX_JOBS, ServerOptions
from serve.sse import compact_json
from turbopilot.errors import ServeError
from turbopilot.version import __version__

log = logging.getLogger("turbopilot.http")

# A refused body up to this size is received and thrown away, so that a client that sends before it reads
# gets to see the answer instead of a broken connection. Larger ones are cut off.
MAX_DISCARDED_BYTES = 2**30


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """Discards a body that is announced as too large; waitress would close while the client still sends."""

    expect_continue: bool
    _discard = 0

    def received(self, data: bytes) -> int:
        if self._discard:
            n = min(len(data), self._discard)
            self._discard -= n
            self.completed = not self._discard
            return n
        consumed: int = super().received(data)
        if isinstance(self.error, RequestEntityTooLarge):
            if self.expect_continue:
                self.expect_continue = False  # answered with the refusal, not with "100 Continue"
            elif not self.body_bytes_received and self.content_length <= MAX_DISCARDED_BYTES:
                self._discard = self.content_length
                self.completed = False
        return consumed


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """What waitress refuses before Flask sees it, as JSON in the caller's dialect."""

    def execute(self) -> None:
        error = self.request.error
        fault = Fault(error.code, "invalid_request_error", f"{error.reason}: {error.body}")
        body = compact_json(error_body(fault, getattr(self.request, "path", "")))
        self.status = f"{error.code} {error.reason}"
        self.content_length = len(body)
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = _Parser
    error_task_class = _ErrorTask


def bind(host: str, port: int) -> socket.socket:
    """Listen on a port; 0 is any free one.

    Raises:
        ServeError: the port is in use or may not be used, or there is no such host.
    """
    if not 0 <= port <= 65535:  # getaddrinfo would take it modulo 65536
        raise ServeError(f"port {port}: no such port", hint="give 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # "localhost" is two addresses; editors try the older one first.
        family, _, _, _, address = min(found, key=lambda f: f[0] != socket.AF_INET)
        return socket.create_server(address[:2], family=family, backlog=128)
    except socket.gaierror as e:
        raise ServeError(
            f"{host}: no such address here ({e.strerror})", hint="try --host 127.0.0.1"
        ) from None
    except OSError as e:
        raise ServeError(
            f"cannot listen on {host} port {port}: {e.strerror or e}",
            hint=f"is another server running? choose another port: -p {port + 1}",
        ) from None


class HttpServer:
    """waitress on a bound socket.

    Args:
        app: the WSGI application.
        listener: from `bind`; owned by the server from now on.
    """

    def __init__(self, app: Callable[..., Any], listener: socket.socket) -> None:
        # "Task queue depth" would only say that there are many clients.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self.host, self.port = listener.getsockname()[:2]
        self._server = create_server(
            app,
            sockets=[listener],
            threads=HTTP_THREADS,
            ident=f"turbopilot/{__version__}",
            max_request_body_size=MAX_BODY_BYTES,
            recv_bytes=65536,
            # Reads on while a request is answered; without it a client's leaving goes unnoticed.
            channel_request_lookahead=4,
            log_socket_errors=False,  # an editor that leaves is no error
        )
        self._server.channel_class = _Channel
        self._stopping = False
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve until `stop` or KeyboardInterrupt; then let the answers under way end."""
        try:
            while not self._stopping:
                wasyncore.loop(timeout=1, map=self._server._map, count=1)
        except (KeyboardInterrupt, SystemExit):
            log.debug("interrupted")
        finally:
            self._server.task_dispatcher.shutdown()
            with self._lock:
                self._stopping = True
                wasyncore.close_all(self._server._map, ignore_all=True)

    def stop(self) -> None:
        """End `run`, from any thread."""
        with self._lock:  # not while `run` closes the pipe that this writes to
            if not self._stopping:
                self._stopping = True
                self._server.pull_trigger()


def serve(options: ServerOptions, notify: Callable[[str], None]) -> None:
    """Load the model and serve it until interrupted.

    Args:
        options: what to serve, and where.
        notify: gets lines for a person: what was loaded, and where it listens.

    Raises:
        TurboPilotError: it cannot start.
    """
    listener = bind(options.host, options.port)
    with listener:
        from serve.llama_decoder import load  # seconds: not before the port is ours

        notify(f"loading {options.model_file}")
        decoder, report = load(options.model_file, options.model)
        for line in report.lines():
            notify(line)
        runner = EngineRunner(
            Engine(decoder, n_slots=options.model.n_seq, random_seed=options.random_seed),
            max_jobs=MAX_JOBS,
        )
        model = ModelInfo(decoder.name, decoder.n_ctx, int(time.time()))
        app = create_app(CompletionService(runner, decoder, model), options.defaults)
        server = HttpServer(app, listener)
        runner.start()
        try:
            _stop_gracefully(runner)
            for line in how_to_use(server.host, server.port):
                notify(line)
            server.run()
        finally:
            runner.close()
            decoder.close()
    notify("stopped")


def _stop_gracefully(runner: EngineRunner) -> None:
    """On Ctrl-C or a polite kill: end what runs, tell its clients, leave. A second one does not wait."""
    if threading.current_thread() is not threading.main_thread():
        return  # Python delivers signals to the main thread alone

    def leave(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        runner.request_stop()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
