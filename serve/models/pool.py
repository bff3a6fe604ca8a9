"""Pool of the models that a server can load.

The first request for a model loads it, in the thread of that request. Only one model is loaded at a time: meanwhile,
other requests for models that are not loaded wait, and requests for loaded models are computed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from serve.adapters import AdapterScales
from serve.models.pooled_model import RETRY_SECONDS, PooledModel, find_idle, hold_up, make_room
from serve.models.service import CompletionService, close_all
from serve.models.status import ModelInfo, ModelStatus
from serve.runner.generation import ClientGone, WhenGone, stays
from turbopilot.base.errors import Overloaded, ServeError
from turbopilot.base.threads import start_thread

log = logging.getLogger("turbopilot.models")

SHUTTING_DOWN: Final = "the server is shutting down"


class ModelPool:
    """The models of a server, by name. Callable from any thread.

    Args:
        models: at least one, with unique names. The first one is the default, which also serves unknown names.
        memory: maximum bytes of all loaded models together; no model alone exceeds it.
        max_waiting: maximum requests that wait for models to be loaded; more are refused.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        models: Sequence[PooledModel],
        *,
        memory: int,
        max_waiting: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._by_name = {m.name: m for m in models}
        self._memory, self._max_waiting, self._clock = memory, max_waiting, clock
        # Reentrant: a signal handler may drain the pool while its thread holds the lock. Lock order: this lock first,
        # then the runners' locks.
        self._changed = threading.Condition(threading.RLock())
        self._is_busy = False  # a thread is loading or unloading
        self.is_draining = self._is_stopping = False

    @property
    def known(self) -> tuple[ModelInfo, ...]:
        """All models, the default one first."""
        return tuple(m.info for m in self._models)

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
    def hold_up(self) -> str:
        """Reason why the pool cannot be closed at present, or ""."""
        return hold_up(self._models)

    @contextmanager
    def use(self, name: str, when_gone: WhenGone = stays) -> Iterator[CompletionService]:
        """Return the model with this name, loaded if necessary; it stays loaded until the end of the block.

        A completion that is still running also keeps its model loaded.

        Args:
            name: the model name in the client's request.
            when_gone: ends the wait for a model that is loading if the client disconnects.

        Raises:
            Overloaded: there is no room for the model, or too many requests are waiting.
            ClientGone: the client disconnected.
            TurboPilotError: the model cannot be loaded.
        """
        m = self._by_name.get(name, self._models[0])
        service = self._wait_for(m, when_gone) or self._load(m)
        try:
            yield service
        finally:
            self._leave(m)

    def preload(self, done: Callable[[BaseException | None], None]) -> None:
        """Start to load the default model in a new thread; its state is "loading" when this method returns.

        Args:
            done: called with the error if the model cannot be loaded, else with None.
        """
        m = self._models[0]
        with self._changed:
            assert not self._is_busy, "preload must come before any use of the pool"
            self._is_busy = m.is_loading = True

        def load() -> None:
            error = None
            try:
                self._load(m)
                self._leave(m)
            except BaseException as e:
                error = e
            done(error)

        try:
            start_thread(load, "turbopilot-load")
        except ServeError as e:
            self._note_failure(m, e)
            raise

    def _wait_for(self, m: PooledModel, when_gone: WhenGone) -> CompletionService | None:
        """Wait until the model is loaded and use it. Return None if the caller has to load it."""
        with self._changed:
            if not m.service and self._is_busy and not self.is_draining:
                self._wait(m, when_gone)
            if self.is_draining:
                raise Overloaded(SHUTTING_DOWN)
            if m.service:
                m.n_users += 1
                m.last_used = self._clock()
                return m.service
            self._is_busy = m.is_loading = True
            return None

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

    def _load(self, m: PooledModel) -> CompletionService:
        """Load a model and use it. The caller has set `_is_busy`; this method clears it."""
        try:
            with self._changed:
                loaded = [x for x in self._models if x.service]
                going = make_room(m, self._memory, loaded)
                services = self._take_out(going, f"to make room for {m.name}")
            close_all(services)
            service = m.load()
        except BaseException as e:
            failure = e if isinstance(e, Exception) else ServeError(f"{m.name}: interrupted")
            self._note_failure(m, failure)
            raise
        with self._changed:
            m.service, m.failure, m.is_loading = service, None, False
            m.n_loads += 1
            m.n_users += 1
            m.last_used = self._clock()
            if self.is_draining:
                service.runner.drain()
            if self._is_stopping:
                service.runner.request_stop()
            self._end()
        return service

    def _note_failure(self, m: PooledModel, failure: Exception) -> None:
        with self._changed:
            m.n_failures += 1
            m.failure, m.is_loading = failure, False
            self._end()

    def _end(self) -> None:
        """Allow the next thread to load or unload models."""
        self._is_busy = False
        self._changed.notify_all()

    def _leave(self, m: PooledModel) -> None:
        with self._changed:
            m.n_users -= 1
            m.last_used = self._clock()
            if self.is_draining:
                self._changed.notify_all()

    def _take_out(self, models: Sequence[PooledModel], why: str = "") -> list[CompletionService]:
        """Remove the services of these models from the pool and return them; the caller closes them."""
        taken = []
        for m in models:
            if m.service:
                if why:
                    log.info("unloading %s %s", m.name, why)
                taken.append(m.service)
                m.service = None
        return taken

    def start(self) -> None:
        """Start the thread that unloads idle models."""
        if any(m.idle is not None for m in self._models):
            start_thread(self._watch_idle, "turbopilot-idle")

    def _watch_idle(self) -> None:
        while (left := self.unload_idle()) is not None:
            with self._changed:
                self._changed.wait_for(lambda: self.is_draining, left)

    def unload_idle(self) -> float | None:
        """Unload models that were idle for too long.

        Returns:
            Seconds until the next check; None if no check is needed.
        """
        with self._changed:
            if self.is_draining:
                return None
            due, left = find_idle(self._models, self._clock())
            if not due:
                return left
            if self._is_busy:
                return RETRY_SECONDS
            self._is_busy = True
            going = self._take_out(due, "because it was not used")
        try:
            close_all(going)
        finally:
            with self._changed:
                self._end()
        return left

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

    def request_stop(self) -> None:
        """Refuse new requests and cancel the running ones. Does not wait for them to end."""
        with self._changed:
            self._is_stopping = True
            self.drain()
            for service in self.loaded:
                service.runner.request_stop()

    def close(self) -> None:
        """Stop all models, wait until no thread uses or loads one, and unload them."""
        self.request_stop()
        with self._changed:
            self._changed.wait_for(
                lambda: not (self._is_busy or any(m.n_users for m in self._models))
            )
            loaded = self._take_out(self._models)
        close_all(loaded)
