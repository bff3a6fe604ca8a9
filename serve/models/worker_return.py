"""Return of a model whose worker was lost."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Final

from serve.models.pooled_model import PooledModel

if TYPE_CHECKING:
    from serve.models.pool import ModelPool

log = logging.getLogger("turbopilot.models")

LOOK_SECONDS: Final = 1.0
"""Seconds between two looks whether a worker has returned, and for which a look lasts at most."""


def bring_back(pool: ModelPool, m: PooledModel) -> None:
    """Free a model that has lost a worker, and load it again when the worker has returned.

    It is freed at once, because it has memory of this machine and of other workers.
    """
    from turbopilot.llama.rpc import is_available  # imports llama.cpp

    if m.service:
        m.service.runner.wait_until_idle()  # its requests end
    if not pool.unload(m):
        return
    gc.collect()  # the error refers to frames, and so to the model, its tables and its links to workers
    log.info("waiting until %s returns", " and ".join(m.lost.workers if m.lost else ()))
    while m.lost and pool.pause(LOOK_SECONDS):
        if all(is_available(worker, LOOK_SECONDS) for worker in m.lost.workers):
            pool.reload(m)
