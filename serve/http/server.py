"""Listening socket and waitress's threads.

The port is bound before the model is loaded, so that a port in use is reported immediately.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from waitress import create_server, wasyncore
from waitress.task import ThreadedTaskDispatcher

from serve.http.app import create_app
from serve.http.channel import MAX_CONNECTIONS, Channel, dispensable, most_connections
from serve.http.editors_view import Editors, no_editors
from serve.http.malloc import share_heap
from serve.http.security.hosts import is_loopback
from serve.http.shutdown import Shutdown
from serve.http.start_lines import how_to_use, open_to_strangers
from serve.models import ModelPool
from serve.settings import (
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    SPARE_HTTP_THREADS,
    UPSTREAM_PARALLEL,
    ServerOptions,
)
from serve.status.feed import MOST_VIEWERS
from turbopilot.base.errors import ServeError
from turbopilot.base.threads import too_many_threads
from turbopilot.base.version import __version__
from turbopilot.llama.footprint import DEFAULT_PARALLEL

log = logging.getLogger("turbopilot.http")

# Seconds that clients have to receive the last responses before the server exits: fewer than shutdown.LAST_SECONDS.
SEND_SECONDS = 3.0
# Seconds that the threads of responses have to end. Those that still send end when their connections are closed.
JOIN_SECONDS = 0.5
# Seconds between two warnings that connections are closed because there are too many.
WARN_SECONDS = 60.0


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port; port 0 picks a free one.

    Raises:
        ServeError: the port is in use or not allowed, or the host is not an address of this machine.
    """
    if not 0 <= port <= 65535:  # getaddrinfo would use it modulo 65536
        raise ServeError(f"port {port}: out of range", hint="choose a port from 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # "localhost" has an IPv4 and an IPv6 address; editors try IPv4 first.
        family, _, _, _, address = min(found, key=lambda f: f[0] != socket.AF_INET)
        return socket.create_server(address[:2], family=family, backlog=128)
    except socket.gaierror as e:
        raise ServeError(
            f"{host}: not an address of this machine ({e.strerror})", hint="try --host 127.0.0.1"
        ) from None
    except OSError as e:
        raise ServeError(
            f"cannot listen on {host} port {port}: {e.strerror or e}",
            hint=f"another server may be running; stop it, or choose another port: -p {port + 1}",
        ) from None


class _Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]  # waitress has no types
    """waitress's threads, which can be ended even if some could not be started."""

    def start_new_thread(self, target: Callable[..., None], thread_no: int) -> None:
        """Start a thread; raise ServeError if the system allows no more."""
        try:
            super().start_new_thread(target, thread_no)
        except RuntimeError as e:
            self.threads.discard(thread_no)
            raise too_many_threads(e) from e


class HttpServer:
    """waitress on a bound socket.

    Args:
        app: the WSGI application.
        listener: socket from `bind`; the server closes it.
        threads: maximum requests that are processed at the same time, including those in the queue.
        clock: clock in seconds, to detect clients that read nothing or send too slowly.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        listener: socket.socket,
        *,
        threads: int = 32,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # A cancelled request has its line in the access log; waitress would log a second one.
        logging.getLogger("waitress").setLevel(logging.WARNING)
        # "Task queue depth" warnings would only show that there are many clients.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self.host, self.port = listener.getsockname()[:2]
        self._n_threads = threads + MOST_VIEWERS  # each viewer of the status occupies one
        self._dispatcher = _Dispatcher()  # its threads start in `run`, which also ends them
        self._server = create_server(
            app,
            _dispatcher=self._dispatcher,
            sockets=[listener],
            connection_limit=most_connections(),
            asyncore_use_poll=True,
            ident=f"turbopilot/{__version__}",
            max_request_body_size=MAX_BODY_BYTES,
            max_request_header_size=MAX_HEADER_BYTES,
            recv_bytes=65536,
            # Read from the socket while a request is processed, to notice a client's disconnect.
            channel_request_lookahead=4,
            log_socket_errors=False,  # an editor that disconnects is not an error
        )
        self._server.channel_class = Channel
        self._clock = clock
        self._next_warning = -math.inf
        self._refusing = False
        self._stopping = False
        self._ended = False
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve until `stop` or KeyboardInterrupt, then send the remaining output to clients.

        Raises:
            ServeError: the system does not allow that many threads.
        """
        try:
            self._dispatcher.set_thread_count(self._n_threads)
            while not self._stopping:
                self._turn(1.0)
            until = time.monotonic() + SEND_SECONDS
            while self._is_sending() and (left := until - time.monotonic()) > 0:
                self._turn(min(left, 1.0))
        except (KeyboardInterrupt, SystemExit):
            log.debug("interrupted")
        finally:
            self._dispatcher.shutdown(timeout=JOIN_SECONDS)
            with self._lock:
                self._ended = True
                wasyncore.close_all(self._server._map, ignore_all=True)

    def _turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for sockets that are ready, and send and receive."""
        if self._refusing and self._server.accepting:
            wasyncore.dispatcher.close(self._server)  # the listener, not the connections
        wasyncore.loop(timeout=timeout, use_poll=True, map=self._server._map, count=1)
        now = self._clock()
        for channel in list(self._server.active_channels.values()):
            if channel.is_stuck(now) or channel.is_late(now):
                channel.handle_close()
        self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Close a connection if there are too many, so that the next client is served. A turn accepts one client."""
        n = len(self._server._map)
        if n < self._server.adj.connection_limit:
            return
        if channel := dispensable(self._server.active_channels.values()):
            channel.handle_close()
            if now >= self._next_warning:
                self._next_warning = now + WARN_SECONDS
                log.warning("%d connections are open: closing idle ones to serve new clients", n)

    def _is_sending(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(c.requests or c.total_outbufs_len for c in channels)

    def refuse(self) -> None:
        """Stop accepting new connections. Callable from any thread."""
        self._refusing = True
        self._wake()

    def stop(self) -> None:
        """End `run`. Callable from any thread."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:  # `run` may be closing the pipe that `pull_trigger` writes to
            if not self._ended:
                self._server.pull_trigger()


def serve(
    options: ServerOptions, notify: Callable[[str], None], editors: Editors = no_editors
) -> None:
    """Serve models until interrupted. The default model is loaded at the start.

    Args:
        options: settings of the server.
        notify: called with status lines, such as the server's URL. An OSError of it is ignored.
        editors: see `create_app`.

    Raises:
        TurboPilotError: the server cannot start.
    """

    def tell(line: str) -> None:
        # The reader of the log may have ended, or its disk may be full. The server must not end with it.
        with suppress(OSError):
            notify(line)

    listener = bind(options.host, options.port)
    share_heap()
    with listener:
        # This import takes seconds, so it comes after the port is bound.
        from serve.models.loading import make_pool
        from serve.models.upstream_loading import make_upstream_pool

        if options.upstream.addresses:
            models, _ = make_upstream_pool(options, tell)
        else:
            models = make_pool(options, tell)
        run(models, listener, options, tell, editors)
    tell("stopped")


def run(
    models: ModelPool,
    listener: socket.socket,
    options: ServerOptions,
    notify: Callable[[str], None],
    editors: Editors = no_editors,
) -> None:
    """Serve models until interrupted. While the default model loads, completions wait, and other routes respond.

    Args:
        models: pool with no loaded model; it is closed at the end.
        listener: socket from `bind`.
        options: see `serve`; the model files in it are ignored.
        notify: see `serve`.
        editors: see `create_app`.

    Raises:
        TurboPilotError: the default model cannot be loaded.
    """
    address = listener.getsockname()[0]
    security = replace(
        options.security,
        host=address,
        allowed_hosts=(*options.security.allowed_hosts, options.host),
    )
    # One thread for each request that may run or wait, and spare ones for routes that do not wait.
    at_once = UPSTREAM_PARALLEL if options.upstream.addresses else DEFAULT_PARALLEL
    n_open = (options.model.n_seq or at_once) + options.limits.max_queue
    n_threads = min(len(models.known) * n_open + SPARE_HTTP_THREADS, MAX_CONNECTIONS)
    app = create_app(models, options.request_defaults, security, options.shown, editors)
    server = HttpServer(app, listener, threads=n_threads)
    failures: list[BaseException] = []

    def loaded(error: BaseException | None) -> None:
        if error is not None:
            failures.append(error)
            server.stop()
        elif not models.is_draining:
            has_key, has_page = bool(security.api_keys), security.has_page
            for line in how_to_use(server.host, server.port, needs_key=has_key, has_page=has_page):
                notify(line)

    try:
        Shutdown(
            models, refuse=server.refuse, leave=server.stop, grace=options.limits.grace
        ).on_signals()
        if not security.api_keys and not is_loopback(address):
            notify(open_to_strangers(options.host))
        models.start()
        models.preload(loaded)
        server.run()
    finally:
        models.close()
    if failures:
        raise failures[0]
