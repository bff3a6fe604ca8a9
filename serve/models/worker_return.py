"""Return of a model whose worker was lost."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Final

from serve.models.pooled_model import PooledModel
from turbopilot.base.errors import ServeError
from turbopilot.llama.rpc_protocol import connect_worker

if TYPE_CHECKING:
    from serve.models.pool import ModelPool

log = logging.getLogger("turbopilot.models")

LOOK_SECONDS: Final = 1.0
"""Seconds between two looks whether a worker has returned, and for which a look lasts at most."""


def bring_back(pool: ModelPool, m: PooledModel) -> None:
    """Free a model that has lost a worker, and load it again when the worker has returned.

    It is freed at once, because it has memory of this machine and of other workers.
    """
    if m.service:
        m.service.runner.wait_until_idle()  # its requests end
    if not pool.unload_lost(m):
        return
    gc.collect()  # the error refers to frames, and so to the model, its tables and its links to workers
    log.info("waiting until %s returns", " and ".join(m.lost.workers if m.lost else ()))
    while m.lost and pool.pause(LOOK_SECONDS):
        if all(map(has_returned, m.lost.workers)):
            pool.reload(m)


def has_returned(worker: str) -> bool:
    """Return whether a worker answers and is not in use."""
    try:
        connect_worker(worker, LOOK_SECONDS).close()
    except ServeError:
        return False
    return True
