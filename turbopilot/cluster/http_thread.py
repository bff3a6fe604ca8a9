"""An HTTP server in a thread of a replica's process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any, Final

from serve.http.channel import MAX_CONNECTIONS
from serve.http.server import HttpServer
from serve.models import ModelPool
from turbopilot.base.threads import start_thread

_JOIN_SECONDS: Final = 10.0


class HttpThread:
    """HTTP server of a WSGI application, in a thread.

    Args:
        app: the application.
        listener: bound socket; the server closes it.
        threads: maximum requests that are processed at the same time.
    """

    def __init__(self, app: Callable[..., Any], listener: socket.socket, *, threads: int) -> None:
        host, self.port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        self._server = HttpServer(app, listener, threads=min(threads, MAX_CONNECTIONS))
        self.refuse = self._server.refuse
        self._thread: threading.Thread | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the server runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the server; raise ServeError if the system allows no more threads."""
        self._thread = start_thread(self._server.run, "turbopilot-http")

    def stop(self) -> None:
        """Send the remaining output and end the server."""
        self._server.stop()
        if self._thread:
            self._thread.join(_JOIN_SECONDS)


def load_default(models: ModelPool) -> None:
    """Load the default model of a pool, and return when it is ready.

    Raises:
        TurboPilotError: it cannot be loaded.
    """
    done = threading.Event()
    errors: list[BaseException] = []

    def loaded(error: BaseException | None) -> None:
        errors.extend([error] if error else [])
        done.set()

    models.start()
    models.preload(loaded)
    done.wait()
    if errors:
        raise errors[0]
