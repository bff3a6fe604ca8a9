"""The socket and waitress's threads: the outermost shell.

The port is bound before a model is loaded: a port in use is reported at once, not after a minute.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from waitress import create_server, wasyncore

from serve.http.app import create_app
from serve.http.channel import Channel
from serve.http.malloc import share_heap
from serve.http.security.hosts import is_loopback
from serve.http.shutdown import Shutdown
from serve.models import ModelPool
from serve.settings import (
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    SPARE_HTTP_THREADS,
    ServerOptions,
)
from turbopilot.base.errors import ServeError
from turbopilot.base.version import __version__
from turbopilot.llama.footprint import DEFAULT_PARALLEL

log = logging.getLogger("turbopilot.http")

# Seconds that clients get to take the last answer before the server is gone.
LAST_SECONDS = 5.0
# Connections beyond this are not accepted; waitress's 100 are few for a team's editors.
MAX_CONNECTIONS = 1000


def bind(host: str, port: int) -> socket.socket:
    """Listen on a port; 0 is any free one.

    Raises:
        ServeError: the port is in use or not allowed, or the host does not exist.
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
        clock: seconds, to find clients that take nothing, or send too slowly.
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
            # Read on while a request is answered: else a client's leaving goes unnoticed.
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
        """Accept no new connections from now on. Callable from any thread."""
        self._refusing = True
        self._wake()

    def stop(self) -> None:
        """End `run`. Callable from any thread."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:  # not while `run` closes the pipe that this writes to
            if not self._ended:
                self._server.pull_trigger()


def how_to_use(host: str, port: int, *, needs_key: bool = False) -> list[str]:
    """Say where the server listens, and how to try it; a key is named, never shown."""
    if host in ("0.0.0.0", "::"):  # every address; here it is reached by this one
        host = "127.0.0.1"
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    key = '-H "Authorization: Bearer $TURBOPILOT_API_KEY" ' if needs_key else ""
    return [
        f"ready    {url}  (Ctrl-C stops it)",
        "try      "
        f"curl -s {url}/v1/completions {key}-d "
        """'{"prompt": "def fibonacci(n):", "max_tokens": 48}'""",
    ]


def open_to_strangers(host: str) -> str:
    """Warn that others reach the server and no key is wanted."""
    return (
        f"warning  --host {host} and no API key: whoever reaches this machine can use the server; "
        "--api-key-file FILE asks for a key"
    )


def serve(options: ServerOptions, notify: Callable[[str], None]) -> None:
    """Serve models until interrupted; the default one is loaded at once.

    Args:
        options: what to serve, and where.
        notify: gets lines for a person: what was loaded, and where it listens.

    Raises:
        TurboPilotError: it cannot start.
    """
    listener = bind(options.host, options.port)
    share_heap()
    with listener:
        # Seconds: not before the port is ours.
        from serve.models.loading import make_pool

        run(make_pool(options, notify), listener, options, notify)
    notify("stopped")


def run(
    models: ModelPool,
    listener: socket.socket,
    options: ServerOptions,
    notify: Callable[[str], None],
) -> None:
    """Serve models until interrupted. HTTP is answered while the default one loads; completions wait for it.

    Args:
        models: none is loaded yet; closed at the end.
        listener: from `bind`.
        options: see `serve`; the models in it do not count.
        notify: see `serve`.

    Raises:
        TurboPilotError: the default model cannot be loaded.
    """
    address = listener.getsockname()[0]
    security = replace(
        options.security,
        host=address,
        allowed_hosts=(*options.security.allowed_hosts, options.host),
    )
    # As many as may wait for anything, and some for what need not wait.
    n_open = (options.model.n_seq or DEFAULT_PARALLEL) + options.limits.max_queue
    n_threads = min(len(models.known) * n_open + SPARE_HTTP_THREADS, MAX_CONNECTIONS)
    app = create_app(models, options.request_defaults, security)
    server = HttpServer(app, listener, threads=n_threads)
    failures: list[BaseException] = []

    def loaded(error: BaseException | None) -> None:
        if error is not None:
            failures.append(error)
            server.stop()
        elif not models.is_draining:
            for line in how_to_use(server.host, server.port, needs_key=bool(security.api_keys)):
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
