"""The socket and waitress's threads: the outermost shell. Knows nothing of JSON or llama.cpp's API.

The port is bound before the model is loaded: a port in use is known at once, not after a minute.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from waitress import create_server, wasyncore

from serve.decoder import Decoder
from serve.http.app import create_app
from serve.http.channel import Channel
from serve.http.security.authority import is_loopback
from serve.http.shutdown import Shutdown
from serve.models import OneModel
from serve.report import how_to_use, open_to_strangers
from serve.runner import EngineRunner
from serve.runner.steps import Steps
from serve.service import CompletionService, ModelInfo
from serve.settings import MAX_BODY_BYTES, MAX_HEADER_BYTES, SPARE_HTTP_THREADS, ServerOptions
from turbopilot.errors import ServeError
from turbopilot.version import __version__

log = logging.getLogger("turbopilot.http")

# After the last answer was computed, clients get so many seconds to take it before the server is gone.
LAST_SECONDS = 5.0
# Connections beyond this are not accepted; waitress's 100 are few for a team's editors.
MAX_CONNECTIONS = 1000


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
        threads: answers that may be under way at once, waiting ones included.
        clock: seconds, to tell clients that take nothing, or send too slowly.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        listener: socket.socket,
        *,
        threads: int = 32,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # "Task queue depth" would only say that there are many clients.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self.host, self.port = listener.getsockname()[:2]
        self._server = create_server(
            app,
            sockets=[listener],
            threads=threads,
            connection_limit=MAX_CONNECTIONS,
            asyncore_use_poll=True,
            ident=f"turbopilot/{__version__}",
            max_request_body_size=MAX_BODY_BYTES,
            max_request_header_size=MAX_HEADER_BYTES,
            recv_bytes=65536,
            # Reads on while a request is answered; without it a client's leaving goes unnoticed.
            channel_request_lookahead=4,
            log_socket_errors=False,  # an editor that leaves is no error
        )
        self._server.channel_class = Channel
        self._clock = clock
        self._refusing = False
        self._stopping = False
        self._ended = False
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve until `stop` or KeyboardInterrupt; then let the answers under way reach their clients."""
        try:
            while not self._stopping:
                self._turn(1.0)
            until = time.monotonic() + LAST_SECONDS
            while self._is_sending() and (left := until - time.monotonic()) > 0:
                self._turn(min(left, 1.0))
        except (KeyboardInterrupt, SystemExit):
            log.debug("interrupted")
        finally:
            self._server.task_dispatcher.shutdown()
            with self._lock:
                self._ended = True
                wasyncore.close_all(self._server._map, ignore_all=True)

    def _turn(self, timeout: float) -> None:
        """Send and receive what can be, waiting for it at most `timeout` seconds."""
        if self._refusing and self._server.accepting:
            wasyncore.dispatcher.close(self._server)  # the listener alone: connections stay
        wasyncore.loop(timeout=timeout, use_poll=True, map=self._server._map, count=1)
        now = self._clock()
        for channel in list(self._server.active_channels.values()):
            if channel.is_stuck(now) or channel.is_late(now):
                channel.handle_close()

    def _is_sending(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(c.requests or c.total_outbufs_len for c in channels)

    def refuse(self) -> None:
        """Accept no new connections from now on; from any thread."""
        self._refusing = True
        self._wake()

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:  # not while `run` closes the pipe that this writes to
            if not self._ended:
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
    with listener, ExitStack() as loaded:
        # Seconds: not before the port is ours.
        from serve.drafting import DraftModel, check_same_vocabulary
        from serve.engine import Engine, EngineOptions
        from serve.llama import load

        caches = options.caches
        notify(f"loading {options.model_file}")
        decoder, report = load(options.model_file, options.model)
        loaded.callback(decoder.close)
        for line in report.lines():
            notify(line)
        draft_model = None
        if caches.draft_file:
            small = replace(options.model, ctx=None, n_seq=decoder.n_seq)
            drafter, drafts = load(caches.draft_file, small)
            loaded.callback(drafter.close)
            check_same_vocabulary(decoder, drafter)
            draft_model = DraftModel(drafter)
            notify(f"drafts   {drafts.name} ({drafts.description})")
        kept = caches.prefix_bytes
        engine_options = EngineOptions(
            n_slots=decoder.n_seq,
            random_seed=options.random_seed,
            drafts=caches.drafts,
            looks_ahead=caches.looks_ahead,
            prefix_cache_bytes=report.prefix_bytes if kept is None else kept,
            prefix_folder=caches.prefix_folder,
        )
        engine = Engine(decoder, engine_options, draft_model=draft_model)
        run(engine, decoder, listener, options, notify)
    notify("stopped")


def run(
    engine: Steps,
    decoder: Decoder,
    listener: socket.socket,
    options: ServerOptions,
    notify: Callable[[str], None],
) -> None:
    """Serve an engine until interrupted.

    Args:
        engine: used by nobody else.
        decoder: the engine's.
        listener: from `bind`.
        options: see `serve`; how to load the model is of no interest here.
        notify: see `serve`.
    """
    limits = options.limits
    max_open = decoder.n_seq + limits.max_queue
    runner = EngineRunner(engine, max_open=max_open)
    model = ModelInfo(decoder.name, decoder.n_ctx, decoder.n_vocab, int(time.time()))
    service = CompletionService(runner, decoder, model, limits, options.fim_order)
    address = listener.getsockname()[0]
    security = replace(
        options.security,
        host=address,
        allowed_hosts=(*options.security.allowed_hosts, options.host),
    )
    server = HttpServer(
        create_app(OneModel(service), options.defaults, security),
        listener,
        threads=max_open + SPARE_HTTP_THREADS,
    )
    runner.start()
    try:
        Shutdown(runner, refuse=server.refuse, leave=server.stop, grace=limits.grace).on_signals()
        for line in how_to_use(server.host, server.port, needs_key=bool(security.api_keys)):
            notify(line)
        if not security.api_keys and not is_loopback(address):
            notify(open_to_strangers(options.host))
        server.run()
    finally:
        runner.close()
