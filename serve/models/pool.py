"""Which model answers, and which thread loads it.

The first request for a model loads it, in its own thread. One model is loaded at a time: other requests for a model
that is not loaded wait meanwhile, and everything else goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from serve.models.pooled_model import RETRY_SECONDS, PooledModel, find_idle, make_room
from serve.models.service import CompletionService, ModelInfo, ModelStatus
from serve.runner.generation import ClientGone, WhenGone, stays
from turbopilot.base.errors import Overloaded, ServeError

log = logging.getLogger("turbopilot.models")

SHUTTING_DOWN: Final = "the server is shutting down"


class ModelPool:
    """The models of a server, by name. Callable from any thread.

    Args:
        models: at least one; names differ. The first, the default, answers for all unknown names.
        memory: most bytes of the loaded models together; none of them alone takes more.
        max_waiting: requests that may wait for models to be loaded; more are refused.
        clock: seconds, from any start.
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
        # Reentrant: a signal handler may drain the pool while its thread holds it. Runners' locks are taken inside it.
        self._changed = threading.Condition(threading.RLock())
        self._is_busy = False  # a thread is loading or unloading
        self.is_draining = self._is_stopping = False

    @property
    def known(self) -> tuple[ModelInfo, ...]:
        """All models, the default first."""
        return tuple(m.info for m in self._models)

    @property
    def loaded(self) -> tuple[CompletionService, ...]:
        """The loaded models, in the order of `known`."""
        with self._changed:
            return tuple(m.service for m in self._models if m.service)

    @property
    def statuses(self) -> tuple[ModelStatus, ...]:
        """The state of each, the default first. Never blocks."""
        with self._changed:
            return tuple(m.status(is_draining=self.is_draining) for m in self._models)

    @contextmanager
    def use(self, name: str, when_gone: WhenGone = stays) -> Iterator[CompletionService]:
        """Return the model of this name, loaded if necessary; it stays loaded until the end of the block.

        A completion that was started keeps its model loaded, too.

        Args:
            name: as the client calls it.
            when_gone: ends the wait for a model that is loading, when the client leaves.

        Raises:
            Overloaded: there is no room for it, or too many wait already.
            ClientGone: the client left.
            TurboPilotError: it cannot be loaded.
        """
        m = self._by_name.get(name, self._models[0])
        service = self._wait_for(m, when_gone) or self._load(m)
        try:
            yield service
        finally:
            self._leave(m)

    def preload(self, done: Callable[[BaseException | None], None]) -> None:
        """Load the default model in a thread of its own; it counts as loading when this returns.

        Args:
            done: called with the error if it cannot be loaded, else with None.
        """
        m = self._models[0]
        with self._changed:
            assert not self._is_busy, "a model was asked for before"
            self._is_busy = m.is_loading = True

        def load() -> None:
            error = None
            try:
                self._load(m)
                self._leave(m)
            except BaseException as e:
                error = e
            done(error)

        threading.Thread(target=load, name="turbopilot-load", daemon=True).start()

    def _wait_for(self, m: PooledModel, when_gone: WhenGone) -> CompletionService | None:
        """Use the model as soon as it is loaded; None if the caller has to load it."""
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
        """Wait until the model is loaded, can be, or cannot be any more. Raises as `use` does."""
        n = sum(x.n_waiting for x in self._models)
        if n >= self._max_waiting:
            raise Overloaded(
                f"{n} requests are waiting for a model to be loaded already",
                retry_after=RETRY_SECONDS,
                hint="try again",
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

        m.n_waiting += 1  # a model that requests wait for is not unloaded
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
        """Load a model and use it. The caller has set `_is_busy`, which this clears."""
        try:
            with self._changed:
                loaded = [x for x in self._models if x.service]
                going = make_room(m, self._memory, loaded)
                services = self._take_out(going, f"to make room for {m.name}")
            _close(services)
            service = m.load()
        except BaseException as e:
            with self._changed:
                m.n_failures += 1
                m.failure = e if isinstance(e, Exception) else ServeError(f"{m.name}: interrupted")
                m.is_loading = False
                self._end()
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

    def _end(self) -> None:
        """Let the next thread load or unload."""
        self._is_busy = False
        self._changed.notify_all()

    def _leave(self, m: PooledModel) -> None:
        with self._changed:
            m.n_users -= 1
            m.last_used = self._clock()
            if self.is_draining:
                self._changed.notify_all()

    def _take_out(self, models: Sequence[PooledModel], why: str = "") -> list[CompletionService]:
        """Take these models out of use; the caller closes them."""
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
            threading.Thread(target=self._watch_idle, name="turbopilot-idle", daemon=True).start()

    def _watch_idle(self) -> None:
        while (left := self.unload_idle()) is not None:
            with self._changed:
                self._changed.wait_for(lambda: self.is_draining, left)

    def unload_idle(self) -> float | None:
        """Unload models that were idle for too long; return the seconds until there may be more, None for never."""
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
            _close(going)
        finally:
            with self._changed:
                self._end()
        return left

    def drain(self) -> None:
        """Refuse new requests, and those that wait for a model; others go on."""
        with self._changed:
            self.is_draining = True
            for service in self.loaded:
                service.runner.drain()
            self._changed.notify_all()

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until no model computes; False after `timeout` seconds."""
        until = None if timeout is None else self._clock() + timeout
        idle = [
            s.runner.wait_until_idle(None if until is None else max(0.0, until - self._clock()))
            for s in self.loaded
        ]
        return all(idle)

    def request_stop(self) -> None:
        """Refuse new requests and cancel the present ones. Return at once."""
        with self._changed:
            self._is_stopping = True
            self.drain()
            for service in self.loaded:
                service.runner.request_stop()

    def close(self) -> None:
        """Stop, wait until no thread uses or loads a model, and unload all."""
        self.request_stop()
        with self._changed:
            self._changed.wait_for(
                lambda: not (self._is_busy or any(m.n_users for m in self._models))
            )
            loaded = self._take_out(self._models)
        _close(loaded)


def _close(services: Sequence[CompletionService]) -> None:
    """Close all in order, even if one fails."""
    with ExitStack() as closing:
        for service in reversed(services):  # the last callback is called first
            closing.callback(service.close)
