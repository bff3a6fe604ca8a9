"""Loss of a worker. llama.cpp aborts the process then; this module reports the loss and keeps the process alive.

llama.cpp calls the abort callback in the thread that lost the connection, and calls abort() when the callback returns.
So the callback never returns. The thread that computes waits for it forever, and the model can be neither used nor
freed. Everything else in the process goes on. Source: RPC_STATUS_ASSERT in ggml-rpc.cpp, ggml_abort in ggml.c.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from typing import Final

from turbopilot.base.errors import DeviceLost
from turbopilot.llama.library import declare, ggml
from turbopilot.llama.rpc import is_listening, workers

_CALLBACK: Final = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_LOOKS, _LOOK_SECONDS = 20, 0.05
Handler = Callable[[DeviceLost], None]
_handlers: Final[dict[int, tuple[frozenset[str], Handler]]] = {}


def watch_workers(addresses: Collection[str], handler: Handler) -> Callable[[], None]:
    """Call `handler`, in any thread, if one of these workers is lost; return a function that ends this.

    A loss that no handler is for ends the process with an error message.
    """
    declare(ggml, {"ggml_set_abort_callback": ([_CALLBACK], ctypes.c_void_p)})
    ggml.ggml_set_abort_callback(_CALLED)
    key = id(handler)
    _handlers[key] = frozenset(addresses), handler
    return lambda: (_handlers.pop(key, None), None)[1]


def report_loss(message: str, gone: Collection[str]) -> bool:
    """Call the handlers of the workers that are lost; return whether there was one.

    Args:
        message: llama.cpp's reason to abort, which does not name the worker.
        gone: the workers that are lost.
    """
    found = [h for addresses, h in list(_handlers.values()) if not addresses.isdisjoint(gone)]
    error = loss_of(gone, message)
    for handler in found:
        handler(error)
    return bool(found)


def lost_workers(
    alive: Callable[[str], bool] = is_listening, looks: int = _LOOKS
) -> tuple[str, ...]:
    """Return the workers that do not answer; all if each still answers after a number of looks.

    A worker's connections are closed one after the other, so it may still listen when the loss is noticed.
    """
    for _ in range(looks):
        if gone := tuple(w for w in workers() if not alive(w)):
            return gone
        time.sleep(_LOOK_SECONDS)
    return workers()


def loss_of(gone: Collection[str], message: str) -> DeviceLost:
    """Return the error for workers that are gone."""
    reason = message.rpartition(": ")[2].strip()
    return DeviceLost(
        f"the worker {' or '.join(gone)} is gone: {reason}",
        hint="llama.cpp cannot connect again: start the worker, then restart this program",
    )


def _on_abort(text: bytes) -> None:
    message = text.decode("utf-8", "replace")
    if "ggml-rpc" not in message:
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
        return  # llama.cpp ends the process
    gone = lost_workers()
    if not report_loss(message, gone):
        error = loss_of(gone, message)
        sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
        sys.stderr.flush()
        os._exit(error.exit_code)
    threading.Event().wait()


# llama.cpp keeps a pointer to it.
_CALLED: Final = _CALLBACK(_on_abort)
