"""Measurement of an engine's computations, to detect one that never returns."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Final

from serve.engine import Engine
from serve.metrics import EngineMetrics
from serve.runner.compute_lock import ComputeLock

# Seconds that any step may take: far longer than a step of a model that anyone waits for.
SHORTEST: Final = 60.0
# A step may be this many times slower than expected: attention over a long context, or a machine that became busy.
SLOWER: Final = 10
# Seconds that the warm-up may take. It reads the weights: half an hour is enough for 36 GB from a disk at 20 MB/s.
WARM_UP: Final = 1800.0


def step_limit(metrics: EngineMetrics, n_batch: int, warm_up: float) -> float:
    """Return the seconds that a step may take.

    A step computes at most `n_batch` tokens. Its expected time is that number times the mean time of a token so far,
    which is longer than a token's time in a full batch, since it includes tokens that were computed one by one.

    Args:
        metrics: metrics of the engine.
        n_batch: maximum tokens of a step.
        warm_up: seconds of the warm-up, which computed one token; used until `n_batch` tokens were computed.
    """
    is_known = metrics.batch_tokens >= n_batch
    each = metrics.decode_seconds / metrics.batch_tokens if is_known else warm_up
    return max(SHORTEST, SLOWER * n_batch * each)


class StepWatch:
    """Time limits for the computations of one engine.

    Only the engine's thread may compute; any thread may read the properties.

    Args:
        engine: the engine.
        lock: shared by the engines of one process, of which one computes at a time.
    """

    def __init__(self, engine: Engine, lock: ComputeLock) -> None:
        self._engine, self._lock = engine, lock
        self._warm_up_seconds = 0.0

    def warm_up(self) -> None:
        """Warm up the engine."""
        with self._lock.turn(WARM_UP):
            began = time.monotonic()
            self._engine.warm_up()
            self._warm_up_seconds = time.monotonic() - began

    def turn(self) -> AbstractContextManager[None]:
        """Return a context in which the engine may compute one step."""
        engine = self._engine
        limit = step_limit(engine.metrics, engine.decoder.n_batch, self._warm_up_seconds)
        return self._lock.turn(limit, None if engine.gives_way else self)

    @property
    def is_needed_elsewhere(self) -> bool:
        """Whether another engine that shares the lock has work of normal priority."""
        return self._lock.is_needed_by_others(self)

    @property
    def is_computing(self) -> bool:
        """Whether any engine that shares the lock computes."""
        return self._lock.is_taken

    @property
    def seconds(self) -> float | None:
        """Seconds that the current computation has taken, of this engine or of another; None if there is none."""
        return self._lock.seconds

    @property
    def stalled(self) -> str:
        """Reason why requests get no answer: the current computation exceeds its limit; "" otherwise."""
        seconds = self._lock.overdue
        return "" if seconds is None else f"a computation has not returned for {seconds:.0f} s"
