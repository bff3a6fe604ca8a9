"""State of a model that can be loaded, and the choice of models to unload.

The caller provides the lock and the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from serve.adapters import AdapterScales
from serve.models.service import CompletionService
from serve.models.status import ModelInfo, ModelStatus
from turbopilot.base.errors import DeviceLost, Overloaded, TurboPilotError

RETRY_SECONDS: Final = 5  # most completions take less time, so a model in use may be idle by then


@dataclass(slots=True, eq=False)
class PooledModel:
    """A model that can be loaded. The pool's lock guards all fields but the first five.

    Attributes:
        n_bytes: estimated size in memory.
        load: loads the model; called by one thread at a time.
        idle: seconds without a request after which the model is unloaded; None means never.
        adapters: scales of its LoRA adapters.
        service: the loaded model; None while it is not loaded.
        n_users: number of `ModelPool.use` blocks that have not ended.
        n_waiting: number of requests that wait for the model to be loaded.
        failure: error of the last load; None if it succeeded.
        lost: error if the model has lost a worker, until it is loaded again.
        last_used: time by the pool's clock.
    """

    info: ModelInfo
    n_bytes: int
    load: Callable[[], CompletionService]
    idle: float | None = None
    adapters: AdapterScales = field(default_factory=AdapterScales)
    service: CompletionService | None = field(default=None, init=False)
    is_loading: bool = field(default=False, init=False)
    n_users: int = field(default=0, init=False)
    n_waiting: int = field(default=0, init=False)
    n_loads: int = field(default=0, init=False)
    n_failures: int = field(default=0, init=False)
    failure: Exception | None = field(default=None, init=False)
    lost: DeviceLost | None = field(default=None, init=False)
    last_used: float = field(default=0.0, init=False)

    @property
    def name(self) -> str:
        """The name that clients use."""
        return self.info.name

    @property
    def is_idle(self) -> bool:
        """Whether the model has no users or requests; cannot become false while the caller holds the lock.

        Only users start requests, and a user must take the lock first.
        """
        return not (self.n_users or self.n_waiting or (self.service and self.service.runner.n_open))

    @property
    def is_absent(self) -> bool:
        """Whether the model waits for the return of a worker."""
        return self.lost is not None and not (self.service or self.is_loading)

    def status(self, *, is_draining: bool) -> ModelStatus:
        """Return the model's state for `/health` and `/metrics`; `is_draining` is the pool's."""
        certificate = self.info.certificate
        return replace(
            self._status(is_draining), adapters=self.adapters.states, certificate=certificate
        )

    def _status(self, is_draining: bool) -> ModelStatus:
        if self.service:
            status = self.service.status
            status = replace(status, waiting=status.waiting + self.n_waiting, loads=self.n_loads)
            return replace(status, state="failed", reason=self._absence) if self.lost else status
        status = ModelStatus(self.name, "unloaded", waiting=self.n_waiting, loads=self.n_loads)
        if is_draining:
            return replace(status, state="draining")
        if self.is_loading:
            return replace(status, state="loading")
        if self.lost:
            return replace(status, state="failed", reason=self._absence)
        if self.failure and not isinstance(self.failure, Overloaded):
            known = isinstance(self.failure, TurboPilotError)
            reason = str(self.failure) if known else "unexpected error; see the server's log"
            return replace(status, state="failed", reason=reason)
        return status

    @property
    def _absence(self) -> str:
        return f"{self.lost}; the model is loaded again when it returns"


def make_room(new: PooledModel, memory: int, loaded: Sequence[PooledModel]) -> list[PooledModel]:
    """Return the models to unload so that `new` fits, the least recently used first.

    Args:
        new: the model to load.
        memory: bytes for all models.
        loaded: the models in memory.

    Raises:
        Overloaded: the models in use leave no room.
    """
    excess = sum(m.n_bytes for m in loaded) + new.n_bytes - memory
    going: list[PooledModel] = []
    for m in sorted((m for m in loaded if m.is_idle), key=lambda m: m.last_used):
        if excess <= 0:
            break
        going.append(m)
        excess -= m.n_bytes
    if excess <= 0:
        return going
    staying = ", ".join(f"{m.name} ({megabytes(m.n_bytes)})" for m in loaded if not m.is_idle)
    raise Overloaded(
        f"no room for {new.name} ({megabytes(new.n_bytes)}): {staying} in use; the limit is {megabytes(memory)}",
        retry_after=RETRY_SECONDS,
        hint="try again later, or increase --model-memory",
    )


def find_idle(models: Sequence[PooledModel], now: float) -> tuple[list[PooledModel], float | None]:
    """Return the models to unload, and the seconds until the next check (None: no check is needed)."""
    due: list[PooledModel] = []
    left: list[float] = []
    for m in models:
        if m.idle is None:
            continue
        if not m.is_idle:
            m.last_used = now
        rest = m.last_used + m.idle - now
        if m.service and rest <= 0:
            due.append(m)
        left.append(rest if m.service and rest > 0 else m.idle)
    return due, min(left, default=None)


def hold_up(models: Sequence[PooledModel]) -> str:
    """Return what keeps these models from being closed, or "". Needs no lock, so it works if a thread hangs."""
    loading = [f"{m.name} is still loading" for m in models if m.is_loading]
    seconds = (s.runner.watch.seconds for m in models if (s := m.service))
    computing = {f"a computation has not returned for {t:.0f} s" for t in seconds if t}
    return ", ".join([*loading, *computing])


def megabytes(n: int) -> str:
    """Format a size in bytes as megabytes."""
    return f"{n / 1e6:,.1f} MB"
