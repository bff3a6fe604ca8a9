"""Link to a worker that survives its loss.

llama.cpp ends the process if a worker's connection breaks. So it connects to a relay in this process, which passes the
messages on. If the worker is lost, the relay answers in its place: what llama.cpp computes from then on is wrong, but
it returns, and the model can be freed. Before results are used, `WorkerLink.check` must be called.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from turbopilot.base.errors import DeviceLost, ServeError
from turbopilot.base.tcp import CAN_LIST_SOCKETS, is_unreachable, keep_alive, own_sockets
from turbopilot.base.threads import start_thread
from turbopilot.llama.rpc_protocol import (
    HELLO,
    HELLO_ANSWER,
    REQUEST,
    SIZE,
    SUBSTITUTES,
    answer_size,
    connect_worker,
    receive,
)

log = logging.getLogger("turbopilot.models")

# Between two looks whether the worker's machine is unreachable, or the link is in use.
_LOOK_SECONDS: Final = 1.0
_CHUNK: Final = 2**20
_NOW: Final = getattr(socket, "MSG_DONTWAIT", 0)
Handler = Callable[[DeviceLost], None]


class WorkerLink:
    """A relay on loopback to one worker, until the worker is lost. It ends when nothing refers to it.

    Attributes:
        address: HOST:PORT of the worker.
        endpoint: HOST:PORT of the relay, for llama.cpp.
        lost: the error once the worker is lost, else None.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.lost: DeviceLost | None = None
        self._handlers: dict[int, Handler] = {}
        self._lock = threading.Lock()
        listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        me = weakref.ref(self)
        start_thread(lambda: _accept(listener, me), "turbopilot-worker-link")

    def check(self) -> None:
        """Raise DeviceLost if the worker is lost; results that llama.cpp returned before are wrong then."""
        if self.lost:
            raise self.lost.with_traceback(None)

    def watch(self, handler: Handler) -> Callable[[], None]:
        """Call `handler` once, in any thread, when the worker is lost; return a function that ends this."""
        with self._lock:
            self._handlers[id(handler)] = handler
            lost = self.lost
        if lost:
            handler(lost)
        return lambda: (self._handlers.pop(id(handler), None), None)[1]

    def lose(self, error: DeviceLost) -> None:
        """Record that the worker is lost, and call the handlers."""
        with self._lock:
            if self.lost:
                return
            self.lost = error
            handlers = list(self._handlers.values())
        for handler in handlers:
            try:
                handler(error)
            except Exception:  # llama.cpp waits for the relay's thread
                log.exception("the loss of the worker %s could not be handled", self.address)


def _accept(listener: socket.socket, link: weakref.ref[WorkerLink]) -> None:
    """Accept connections of llama.cpp while there is a link."""
    listener.settimeout(_LOOK_SECONDS)
    with listener:
        while link() is not None:  # no reference while waiting, so that the link can end
            try:
                client, peer = listener.accept()
            except TimeoutError:
                continue
            me = link()
            if me is None or not _is_ours(peer):
                client.close()
                continue
            client.settimeout(None)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            start_thread(_Relay(me, client).run, "turbopilot-worker-relay")
            del me


def _is_ours(peer: tuple[str, int]) -> bool:
    """Return whether an address of loopback is of a socket of this process; True if the system does not show that.

    Other users of this machine could otherwise use the worker, which may be reachable for this user only.
    """
    return not CAN_LIST_SOCKETS or any(s.getsockname() == peer for s in own_sockets())


class _Relay:
    """One connection of llama.cpp, and that to the worker, which is None once the worker is lost."""

    def __init__(self, link: WorkerLink, client: socket.socket) -> None:
        self._link, self._client = link, client
        self._worker: socket.socket | None = None

    def run(self) -> None:
        """Pass messages on until llama.cpp closes its connection."""
        try:
            with self._client, suppress(OSError):  # OSError: llama.cpp has closed its side
                self._connect()
                while self._pass_on():
                    pass
        finally:
            if self._worker:
                self._worker.close()

    def _connect(self) -> None:
        if self._link.lost:
            return
        try:
            self._worker = connect_worker(self._link.address)
            keep_alive(self._worker)
        except DeviceLost as e:
            self._link.lose(e)
        except ServeError as e:  # another version
            self._link.lose(DeviceLost(e.message, hint=e.hint, workers=(self._link.address,)))

    def _lose(self, error: OSError) -> None:
        """Go on without the worker."""
        if self._worker:
            self._worker.close()
            self._worker = None
        address = self._link.address
        self._link.lose(
            DeviceLost(
                f"the worker {address} is gone: {error.strerror or error}",
                hint="start it again on its machine",
                workers=(address,),
            )
        )

    def _pass_on(self) -> bool:
        """Pass one request on, and its answer back; return False if llama.cpp has closed the connection."""
        self._wait_for_request()
        head = self._client.recv(REQUEST.size, socket.MSG_WAITALL)
        if len(head) < REQUEST.size:
            return False
        command, n = REQUEST.unpack(head)
        request = receive(self._client, min(n, _CHUNK))
        if command == HELLO:
            self._client.sendall(SIZE.pack(len(HELLO_ANSWER)) + HELLO_ANSWER)
            return True
        self._send(head + request)
        for at in range(len(request), n, _CHUNK):
            request = receive(self._client, min(n - at, _CHUNK))
            self._send(request)
        size = answer_size(command, request)
        if size is not None:
            self._answer(size, SUBSTITUTES.get(command, b""))
        return True

    def _wait_for_request(self) -> None:
        """Wait for a request, or for the loss of the worker, which sends nothing meanwhile."""
        if self._worker and self._worker in _ready([self._client, self._worker]):
            try:
                has_data = self._worker.recv(1, socket.MSG_PEEK | _NOW)
                what = "sent an answer without a request" if has_data else "closed the connection"
                raise ConnectionAbortedError(f"it {what}")
            except OSError as e:
                self._lose(e)

    def _send(self, data: bytes) -> None:
        """Send a part of a request to the worker, if it is not lost."""
        left = memoryview(data)
        while self._worker and left:
            try:
                self._wait(self._worker, to_send=True)
                left = left[self._worker.send(left, _NOW) :]
            except OSError as e:
                self._lose(e)

    def _answer(self, size: int, substitute: bytes) -> None:
        """Pass the worker's answer on, or what is left of the substitute, which is padded with zeros."""
        sent = -SIZE.size  # bytes of the payload; the size is before it
        while self._worker and sent < size:
            try:
                if sent < 0:
                    self._wait(self._worker, to_send=False)
                    if SIZE.unpack(receive(self._worker, SIZE.size))[0] != size:
                        raise ConnectionAbortedError("its answer has the wrong size")
                    data = SIZE.pack(size) + receive(self._worker, min(size, _CHUNK))
                else:
                    data = receive(self._worker, min(size - sent, _CHUNK))
            except OSError as e:
                self._lose(e)
                break
            self._client.sendall(data)
            sent += len(data)
        if sent < 0:
            self._client.sendall(SIZE.pack(size))
            sent = 0
        for at in range(sent, size, _CHUNK):
            piece = substitute[at : at + _CHUNK]
            self._client.sendall(piece.ljust(min(size - at, _CHUNK), b"\0"))

    def _wait(self, worker: socket.socket, *, to_send: bool) -> None:
        """Wait until the worker can be sent to, or has sent something.

        Raises:
            TimeoutError: the worker's machine is unreachable.
        """
        while not _ready([worker], to_send=to_send, timeout=_LOOK_SECONDS):
            if is_unreachable(worker):
                raise TimeoutError("its machine does not answer")


def _ready(
    sockets: list[socket.socket], *, to_send: bool = False, timeout: float | None = None
) -> list[socket.socket]:
    """Return the sockets that are ready or broken; none after `timeout` seconds."""
    if not hasattr(select, "poll"):  # Windows, where select has no limit on descriptors' numbers
        readable, writable, broken = select.select(
            [] if to_send else sockets, sockets if to_send else [], sockets, timeout
        )
        return [*readable, *writable, *broken]
    poll = select.poll()
    for s in sockets:
        poll.register(s, select.POLLOUT if to_send else select.POLLIN)
    found = {fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)}
    return [s for s in sockets if s.fileno() in found]
