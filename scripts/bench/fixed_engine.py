"""Engine that computes nothing: it answers llama-server's `/completion` with a fixed text, as fast as it can."""

from __future__ import annotations

import json
import socket
import threading
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

N_CTX, SLOTS = 4096, 256
WORDS = (" one", " two", " three", " four", " five", " six", " seven", "\n")


def serve(tell: Connection) -> None:
    """Serve on a free port, which is sent to `tell`, until the process is killed."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        tell.send(listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_answer_all, args=(connection,), daemon=True).start()


def _answer_all(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as file:
        while (read := _request(file)) is not None:
            path, body = read
            if path == "/completion":
                _complete(connection, body["n_predict"])
            else:
                _reply(connection, _ROUTES.get(path))


def _request(file: BinaryIO) -> tuple[str, Any] | None:
    """Return path and JSON of the next request; None at the end of the connection."""
    if not (line := file.readline()):
        return None
    path, size = line.split()[1].decode(), 0
    while (line := file.readline()).strip():
        name, _, value = line.partition(b":")
        size = int(value) if name.lower() == b"content-length" else size
    return path, json.loads(file.read(size)) if size else None


_MODEL = {"id": "fixed", "object": "model", "owned_by": "llamacpp"}
_ROUTES: dict[str, Any] = {
    "/v1/models": {"object": "list", "data": [_MODEL]},
    "/props": {"default_generation_settings": {"n_ctx": N_CTX}, "total_slots": SLOTS},
    "/health": {"status": "ok"},
}


def _reply(connection: socket.socket, value: Any) -> None:
    status = "404 Not Found" if value is None else "200 OK"
    data = json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)


def _complete(connection: socket.socket, n: int) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for i in range(n):
        event = {"index": 0, "content": WORDS[i % len(WORDS)], "tokens": [5 + i], "stop": False}
        connection.sendall(_chunk(event))
    last = {"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": "limit"}
    connection.sendall(_chunk(last) + b"0\r\n\r\n")


def _chunk(event: dict[str, Any]) -> bytes:
    data = b"data: " + json.dumps(event).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)
