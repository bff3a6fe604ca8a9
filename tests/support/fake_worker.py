"""A worker without llama.cpp, which records what it receives and answers as a test says."""

from __future__ import annotations

import queue
import socket
import threading
from contextlib import suppress

from turbopilot.llama.rpc_protocol import HELLO_ANSWER, HELLO_REQUEST, REQUEST, SIZE, receive


class FakeWorker:
    """Worker that serves one connection after the other.

    `replies` holds, for each request, the bytes to send, or None to close the connection. The worker waits for it.

    Attributes:
        address: HOST:PORT.
        requests: (command, payload) of each request.
    """

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self.replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                self._connection, _ = self._listener.accept()
                with self._connection, suppress(OSError):
                    self._serve(self._connection)

    def _serve(self, connection: socket.socket) -> None:
        assert receive(connection, len(HELLO_REQUEST)) == HELLO_REQUEST
        connection.sendall(SIZE.pack(len(HELLO_ANSWER)) + HELLO_ANSWER)
        while True:
            command, n = REQUEST.unpack(receive(connection, REQUEST.size))
            self.requests.put((command, receive(connection, n)))
            if (reply := self.replies.get()) is None:
                return
            connection.sendall(reply)

    def hang_up(self) -> None:
        """Close the connection."""
        assert self._connection
        self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.replies.put(None)
        if self._connection:
            with suppress(OSError):
                self.hang_up()
        self._thread.join()
