"""The models of a server, and their states."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from serve.adapters import AdapterScales
from serve.models.pooled_model import RETRY_SECONDS, PooledModel, hold_up
from serve.models.service import CompletionService
from serve.models.status import ModelInfo, ModelStatus
from serve.runner.generation import ClientGone, WhenGone
from turbopilot.base.errors import Overloaded, UnknownModel
from turbopilot.base.quoting import quoted


class ModelTable:
    """The models of a server, by name. Callable from any thread.

    Args:
        models: at least one, with unique names. The first one is the default, which also serves unknown names.
        max_waiting: maximum requests that wait for models to be loaded; more are refused.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self, models: Sequence[PooledModel], max_waiting: int, clock: Callable[[], float]
    ) -> None:
        self._models, self._max_waiting, self._clock = models, max_waiting, clock
        self._by_name = {m.name: m for m in models}
        # Reentrant: a signal handler may drain the pool while its thread holds the lock. Lock order: this lock first,
        # then the runners' locks.
        self._changed = threading.Condition(threading.RLock())
        self._is_busy = False  # a thread is loading or unloading
        self.is_draining = False

    @property
    def known(self) -> tuple[ModelInfo, ...]:
        """All models, the default one first."""
        return tuple(m.info for m in self._models)

    def find(self, name: str) -> PooledModel:
        """Return the model with this name; raise UnknownModel if there is none."""
        if m := self._by_name.get(name):
            return m
        raise UnknownModel(f"the model {quoted(name)} does not exist", param="model")

    @property
    def adapters(self) -> AdapterScales:
        """LoRA adapters of the default model."""
        return self._models[0].adapters

    @property
    def loaded(self) -> tuple[CompletionService, ...]:
        """The loaded models, in the order of `known`."""
        with self._changed:
            return tuple(m.service for m in self._models if m.service)

    @property
    def statuses(self) -> tuple[ModelStatus, ...]:
        """The state of each model, the default one first. Does not wait for models that are loading or computing."""
        with self._changed:
            return tuple(m.status(is_draining=self.is_draining) for m in self._models)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Estimated bytes of each model in main memory, in the order of `known`."""
        return tuple(m.n_bytes for m in self._models)

    @property
    def hold_up(self) -> str:
        """Reason why the pool cannot be closed at present, or ""."""
        return hold_up(self._models)

    def pause(self, seconds: float) -> bool:
        """Wait for some seconds; return False if the server is shutting down."""
        with self._changed:
            return not self._changed.wait_for(lambda: self.is_draining, seconds)

    def drain(self) -> None:
        """Refuse new requests and those that wait for a model to be loaded; running requests continue."""
        with self._changed:
            self.is_draining = True
            for service in self.loaded:
                service.runner.drain()
            self._changed.notify_all()

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until no model has requests. Return False if `timeout` seconds pass before that."""
        until = None if timeout is None else self._clock() + timeout
        idle = [
            s.runner.wait_until_idle(None if until is None else max(0.0, until - self._clock()))
            for s in self.loaded
        ]
        return all(idle)

    def _wait(self, m: PooledModel, when_gone: WhenGone) -> None:
        """Wait until the model is loaded, could not be loaded, or the caller may load it; raise the errors of `use`."""
        n = sum(x.n_waiting for x in self._models)
        if n >= self._max_waiting:
            raise Overloaded(
                f"the queue is full: {n} waiting for a model to be loaded",
                retry_after=RETRY_SECONDS,
                hint="try again later",
            )
        failures, is_gone = m.n_failures, False

        def leave() -> None:
            nonlocal is_gone
            with self._changed:
                is_gone = True
                self._changed.notify_all()

        def is_over() -> bool:
            can_go_on = m.service is not None or not self._is_busy
            return is_gone or can_go_on or self.is_draining or m.n_failures > failures

        m.n_waiting += 1  # keeps the model from being unloaded
        forget = when_gone(leave)
        try:
            self._changed.wait_for(is_over)
        finally:
            forget()
            m.n_waiting -= 1
        if is_gone:
            raise ClientGone
        if m.failure and m.n_failures > failures:
            raise m.failure
