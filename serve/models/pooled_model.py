"""A model that can be loaded, and how things stand with it. Knows nothing of files or llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from serve.models.directory import ModelStatus, status_of
from serve.models.loaded_model import Hosted
from serve.models.service import ModelInfo
from turbopilot.base.errors import Overloaded, TurboPilotError


@dataclass(frozen=True, slots=True)
class Loadable:
    """A model that can be loaded.

    Attributes:
        info: what is told of it.
        n_bytes: what it takes, about.
        load: loads it; called by one thread at a time.
        idle: seconds without a request after which it is unloaded; None is never.
    """

    info: ModelInfo
    n_bytes: int
    load: Callable[[], Hosted]
    idle: float | None = None


class Model:
    """How things stand with one. Guarded by the pool's lock."""

    def __init__(self, loadable: Loadable) -> None:
        self.loadable = loadable
        self.name = loadable.info.name
        self.hosted: Hosted | None = None
        self.is_loading = False
        self.n_users = self.n_waiting = 0
        self.n_loads = self.n_failures = 0
        self.failure: Exception | None = None
        self.last_used = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nobody would miss it. Only users open requests, so this stays so while the lock is held."""
        return not (self.n_users or self.n_waiting or (self.hosted and self.hosted.n_open))

    def status(self, *, is_draining: bool) -> ModelStatus:
        """For operators.

        Args:
            is_draining: whether the pool is.
        """
        if self.hosted:
            return status_of(self.hosted.service, waiting=self.n_waiting, loads=self.n_loads)
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
