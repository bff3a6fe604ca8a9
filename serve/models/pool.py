"""Pool of the models that a server can load.

The first request for a model loads it, in the thread of that request. Only one model is loaded at a time: meanwhile,
other requests for models that are not loaded wait, and requests for loaded models are computed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from serve.models.pooled_model import RETRY_SECONDS, PooledModel, find_idle, make_room
from serve.models.service import CompletionService, close_all
from serve.models.status import EVENT_MODEL
from serve.models.table import ModelTable
from serve.models.worker_return import bring_back
from serve.runner import EngineRunner
from serve.runner.generation import WhenGone, stays
from turbopilot.base.errors import DeviceLost, InvalidRequest, Overloaded, ServeError
from turbopilot.base.threads import start_thread

log = logging.getLogger("turbopilot.models")

SHUTTING_DOWN: Final = "the server is shutting down"


class ModelPool(ModelTable):
    """The models of a server, loaded when they are needed. Callable from any thread.

    Args:
        models: see `ModelTable`.
        memory: maximum bytes of all loaded models together; no model alone exceeds it.
        max_waiting: see `ModelTable`.
        clock: see `ModelTable`.
    """

    def __init__(
        self,
        models: Sequence[PooledModel],
        *,
        memory: int,
        max_waiting: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(models, max_waiting, clock)
        self.memory = memory
        self._is_stopping = False

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
            DeviceLost: a worker with a part of the model is gone.
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
            if not m.service and self._is_busy and not self.is_draining and not m.is_absent:
                self._wait(m, when_gone)
            if self.is_draining:
                raise Overloaded(SHUTTING_DOWN)
            if m.service:
                m.n_users += 1
                m.last_used = self._clock()
                return m.service
            if m.lost:
                raise m.lost.with_traceback(None)
            self._is_busy = m.is_loading = True
            return None

    def _load(self, m: PooledModel) -> CompletionService:
        """Load a model and use it. The caller has set `_is_busy`; this method clears it."""
        began = self._clock()
        try:
            with self._changed:
                loaded = [x for x in self._models if x.service]
                going = make_room(m, self.memory, loaded)
                services = self._take_out(going, f"to make room for {m.name}")
            close_all(services)
            service = m.load()
        except BaseException as e:
            failure = e if isinstance(e, Exception) else ServeError(f"{m.name}: interrupted")
            self._note_failure(m, failure)
            raise
        with self._changed:
            m.service, m.failure, m.lost, m.is_loading = service, None, None, False
            m.n_loads += 1
            m.n_users += 1
            m.last_used = self._clock()
            if self.is_draining:
                service.runner.drain()
            if self._is_stopping:
                service.runner.request_stop()
            self._end()
        log.info("loaded %s in %.1f s", m.name, self._clock() - began, extra={EVENT_MODEL: m.name})
        service.watch_workers(partial(self._lose, m))
        return service

    def _lose(self, m: PooledModel, error: DeviceLost) -> None:
        """End the requests of a model that has lost a worker, and load it again when the worker has returned."""
        with self._changed:
            if m.service and isinstance(m.service.runner, EngineRunner):
                m.service.runner.fail(error)
            if m.lost or self.is_draining:
                return
            m.lost = error
        log.error("%s: %s", m.name, error, extra={EVENT_MODEL: m.name})
        start_thread(partial(bring_back, self, m), "turbopilot-worker-return")

    def unload(self, m: PooledModel, why: str = "") -> bool:
        """Unload a model once it has no users; return False if the server is shutting down.

        Args:
            m: the model; nothing happens if it is not loaded.
            why: for the log.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.is_draining or not (self._is_busy or m.n_users))
            if self.is_draining:
                return False
            self._is_busy = True
            going = self._take_out([m], why)
        self._close(going)
        return True

    def unload_now(self, name: str) -> None:
        """Unload a model and end its requests with Overloaded; wait for it if it is loading.

        Its next request loads it again.

        Raises:
            UnknownModel: no model has this name.
            InvalidRequest: upstreams compute it.
            Overloaded: the server is shutting down.
        """
        m = self.find(name)
        with self._changed:
            self._changed.wait_for(lambda: self.is_draining or not m.is_loading)
            if m.service and m.service.upstreams:
                raise InvalidRequest(
                    f"upstreams compute {name}: it cannot be unloaded", param="model"
                )
            if m.service and not self.is_draining:
                m.service.runner.why_stopped = f"{name} is being unloaded"
                m.service.runner.request_stop()
        if not self.unload(m, "on request"):
            raise Overloaded(SHUTTING_DOWN)

    def reload(self, m: PooledModel) -> None:
        """Load a model that has lost a worker. If that fails because of a worker, the model stays lost.

        After any other error, the next request for the model tries again.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.is_draining or not self._is_busy)
            if self.is_draining:
                return
            self._is_busy = m.is_loading = True
        try:
            self._load(m)
            self._leave(m)
            log.info("%s is loaded again", m.name, extra={EVENT_MODEL: m.name})
        except Exception:
            log.debug("%s is not loaded again", m.name)  # `_note_failure` has noted and logged it

    def _note_failure(self, m: PooledModel, failure: Exception) -> None:
        with self._changed:
            m.n_failures += 1
            m.failure, m.is_loading = failure, False
            if m.lost:
                m.lost = failure if isinstance(failure, DeviceLost) else None
            self._end()
        if not isinstance(failure, Overloaded):
            log.warning("%s cannot be loaded: %s", m.name, failure, extra={EVENT_MODEL: m.name})

    def _end(self) -> None:
        """Allow the next thread to load or unload models."""
        self._is_busy = False
        self._changed.notify_all()

    def _leave(self, m: PooledModel) -> None:
        with self._changed:
            m.n_users -= 1
            m.last_used = self._clock()
            self._changed.notify_all()

    def _take_out(self, models: Sequence[PooledModel], why: str = "") -> list[CompletionService]:
        """Remove the services of these models from the pool and return them; the caller closes them."""
        taken = []
        for m in models:
            if m.service:
                if why:
                    log.info("unloading %s %s", m.name, why, extra={EVENT_MODEL: m.name})
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
        self._close(going)
        return left

    def _close(self, going: Sequence[CompletionService]) -> None:
        """Close services, and allow the next thread to load or unload models."""
        try:
            close_all(going)
        finally:
            with self._changed:
                self._end()

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
