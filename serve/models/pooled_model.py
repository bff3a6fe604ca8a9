"""A model that can be loaded, and its state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from serve.models.service import CompletionService, ModelInfo, ModelStatus
from turbopilot.base.errors import Overloaded, TurboPilotError


@dataclass(slots=True, eq=False)
class PooledModel:
    """A model that can be loaded. What is not given at the start is guarded by the pool's lock.

    Attributes:
        info: its name and size of context.
        n_bytes: what it takes in memory, about.
        load: loads it; called by one thread at a time.
        idle: seconds without a request after which it is unloaded; None is never.
        service: answers, while it is loaded.
        n_users: calls of `ModelPool.use` that have not ended.
        n_waiting: requests that wait for it to be loaded.
        failure: why the last load failed.
        last_used: the pool's clock.
    """

    info: ModelInfo
    n_bytes: int
    load: Callable[[], CompletionService]
    idle: float | None = None
    service: CompletionService | None = field(default=None, init=False)
    is_loading: bool = field(default=False, init=False)
    n_users: int = field(default=0, init=False)
    n_waiting: int = field(default=0, init=False)
    n_loads: int = field(default=0, init=False)
    n_failures: int = field(default=0, init=False)
    failure: Exception | None = field(default=None, init=False)
    last_used: float = field(default=0.0, init=False)

    @property
    def name(self) -> str:
        """What clients call it."""
        return self.info.name

    @property
    def is_idle(self) -> bool:
        """Whether nobody would miss it. Only users open requests, so this stays so while the lock is held."""
        return not (self.n_users or self.n_waiting or (self.service and self.service.runner.n_open))

    def status(self, *, is_draining: bool) -> ModelStatus:
        """Report its state to operators.

        Args:
            is_draining: whether the pool is.
        """
        if self.service:
            status = self.service.status
            return replace(status, waiting=status.waiting + self.n_waiting, loads=self.n_loads)
        status = ModelStatus(self.name, "unloaded", waiting=self.n_waiting, loads=self.n_loads)
        if is_draining:
            return replace(status, state="draining")
        if self.is_loading:
            return replace(status, state="loading")
        if self.failure and not isinstance(self.failure, Overloaded):
            known = isinstance(self.failure, TurboPilotError)
            reason = str(self.failure) if known else "the server's log says more"
            return replace(status, state="failed", reason=reason)
        return status
