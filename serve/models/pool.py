"""Who uses which model, and who loads it. Knows nothing of HTTP, files or llama.cpp.

Whoever asks for a model that is not loaded loads it, in its own thread. There is one place for that: meanwhile
others wait that want a model which is not loaded, and all else goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from serve.models.directory import STAYS, ModelStatus
from serve.models.generation import ClientWatch
from serve.models.idle import find_idle
from serve.models.loaded_model import Hosted
from serve.models.pooled_model import Loadable, Model
from serve.models.room import RETRY_SECONDS, Tenant, make_room
from serve.models.service import CompletionService, ModelInfo
from serve.models.waiting import wait_until
from turbopilot.base.errors import Overloaded, ServeError

log = logging.getLogger("turbopilot.models")

SHUTTING_DOWN = "the server is shutting down"


class ModelPool:
    """Models by name. See `Models`; it is drained and stopped as an `EngineRunner` is.

    Args:
        models: at least one; names differ. The first answers for all names that are not known.
        memory: bytes that those loaded take together, at most; none of them alone takes more.
        max_waiting: requests that may wait for models to be loaded; more are refused.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        models: Sequence[Loadable],
        *,
        memory: int,
        max_waiting: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = [Model(m) for m in models]
        self._by_name = {m.name: m for m in self._models}
        self._memory, self._max_waiting, self._clock = memory, max_waiting, clock
        # Reentrant: a signal handler may drain us while its thread holds it. Runners' locks are taken inside of it.
        self._changed = threading.Condition(threading.RLock())
        self._is_busy = False  # somebody has the one place where models are loaded and unloaded
        self._is_draining = self._is_stopping = False

    @property
    def known(self) -> tuple[ModelInfo, ...]:
        """All models, the default first."""
        return tuple(m.loadable.info for m in self._models)

    @property
    def loaded(self) -> tuple[CompletionService, ...]:
        """Those that can answer at once, in the order of `known`."""
        return tuple(hosted.service for hosted in self._hosted())

    @property
    def statuses(self) -> tuple[ModelStatus, ...]:
        """How things stand with each."""
        with self._changed:
            return tuple(m.status(is_draining=self._is_draining) for m in self._models)

    @property
    def is_draining(self) -> bool:
        """Whether it was told to end: it takes nothing new."""
        return self._is_draining

    def _hosted(self) -> list[Hosted]:
        with self._changed:
            return [m.hosted for m in self._models if m.hosted]

    @contextmanager
    def use(self, name: str, watch: ClientWatch = STAYS) -> Iterator[CompletionService]:
        """The model of this name, loaded where it is not; see `Models`."""
        m = self._by_name.get(name, self._models[0])
        hosted = self._wait_for(m, watch) or self._load(m)
        try:
            yield hosted.service
        finally:
            self._leave(m)

    def preload(self, done: Callable[[BaseException | None], None]) -> None:
        """Load the default model in a thread of its own; it counts as loading when this returns.

        Args:
            done: told why it cannot be loaded, or None.
        """
        m = self._models[0]
        with self._changed:
            assert not self._is_busy, "nobody may have asked for a model before"
            self._begin(m)

        def load() -> None:
            error = None
            try:
                self._load(m)
                self._leave(m)
            except BaseException as e:
                error = e
            done(error)

        threading.Thread(target=load, name="turbopilot-load", daemon=True).start()

    def _wait_for(self, m: Model, watch: ClientWatch) -> Hosted | None:
        """Use the model as soon as it is loaded. None: it is not, and it is the caller's to load."""
        with self._changed:
            if not m.hosted and self._is_busy and not self._is_draining:
                self._wait(m, watch)
            if self._is_draining:
                raise Overloaded(SHUTTING_DOWN)
            if m.hosted:
                m.n_users += 1
                m.last_used = self._clock()
                return m.hosted
            self._begin(m)
            return None

    def _wait(self, m: Model, watch: ClientWatch) -> None:
        """Until the model is loaded, or could be; or there is no sense in waiting. Raises as `use` does."""
        n = sum(x.n_waiting for x in self._models)
        if n >= self._max_waiting:
            raise Overloaded(
                f"{n} requests are waiting for a model to be loaded already",
                retry_after=RETRY_SECONDS,
                hint="try again",
            )
        failures = m.n_failures

        def is_over() -> bool:
            can_go_on = m.hosted is not None or not self._is_busy
            return can_go_on or self._is_draining or m.n_failures > failures

        m.n_waiting += 1  # what somebody waits for is not unloaded
        try:
            wait_until(is_over, self._changed, watch)
        finally:
            m.n_waiting -= 1
        if m.failure and m.n_failures > failures:
            raise m.failure

    def _begin(self, m: Model) -> None:
        """Take the place where models are loaded."""
        self._is_busy = m.is_loading = True

    def _end(self) -> None:
        """Give it up."""
        self._is_busy = False
        self._changed.notify_all()

    def _load(self, m: Model) -> Hosted:
        """Load a model and use it. The caller has the place for that, and gives it up by this."""
        try:
            _close(self._evict(m))
            hosted = m.loadable.load()
        except BaseException as e:
            with self._changed:
                m.n_failures += 1
                m.failure = e if isinstance(e, Exception) else ServeError(f"{m.name}: interrupted")
                m.is_loading = False
                self._end()
            raise
        with self._changed:
            m.hosted, m.failure, m.is_loading = hosted, None, False
            m.n_loads += 1
            m.n_users += 1
            m.last_used = self._clock()
            if self._is_draining:
                hosted.drain()
            if self._is_stopping:
                hosted.request_stop()
            self._end()
        return hosted

    def _leave(self, m: Model) -> None:
        with self._changed:
            m.n_users -= 1
            m.last_used = self._clock()
            if self._is_draining:
                self._changed.notify_all()

    def _evict(self, m: Model) -> list[Hosted]:
        """Those that make room for it."""
        with self._changed:
            loaded = [x for x in self._models if x.hosted]
            tenants = [Tenant(x.name, x.loadable.n_bytes, x.last_used, x.is_idle) for x in loaded]
            names = make_room(m.name, m.loadable.n_bytes, self._memory, tenants)
            return self._take_out([self._by_name[n] for n in names], f"to make room for {m.name}")

    def _take_out(self, models: Sequence[Model], why: str = "") -> list[Hosted]:
        """Nobody can begin to use them any more. The caller, who has the place for that, closes them."""
        taken = []
        for m in models:
            if m.hosted:
                if why:
                    log.info("unloading %s %s", m.name, why)
                taken.append(m.hosted)
                m.hosted = None
        return taken

    def start(self) -> None:
        """From now on, unload what is idle for too long, from a thread of its own."""
        if any(m.loadable.idle is not None for m in self._models):
            threading.Thread(target=self._watch_idle, name="turbopilot-idle", daemon=True).start()

    def _watch_idle(self) -> None:
        while (left := self.unload_idle()) is not None:
            with self._changed:
                self._changed.wait_for(lambda: self._is_draining, left)

    def unload_idle(self) -> float | None:
        """Unload what nobody has used for as long as it may be idle.

        Returns:
            Seconds after which there may be more to unload; None where that is never.
        """
        with self._changed:
            if self._is_draining:
                return None
            due, left = find_idle(self._models, self._clock())
            if not due:
                return left
            if self._is_busy:
                return RETRY_SECONDS
            self._is_busy = True
            going = self._take_out(due, "as nobody used it")
        try:
            _close(going)
        finally:
            with self._changed:
                self._end()
        return left

    def drain(self) -> None:
        """Refuse new requests from now on, those that wait for a model, too; what is computed goes on."""
        with self._changed:
            self._is_draining = True
            for hosted in self._hosted():
                hosted.drain()
            self._changed.notify_all()

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until no model computes; False where the timeout (seconds) was over before."""
        until = None if timeout is None else self._clock() + timeout
        idle = [
            hosted.wait_until_idle(None if until is None else max(0.0, until - self._clock()))
            for hosted in self._hosted()
        ]
        return all(idle)

    def request_stop(self) -> None:
        """Refuse new requests and end the present ones. Returns at once."""
        with self._changed:
            self._is_stopping = True
            self.drain()
            for hosted in self._hosted():
                hosted.request_stop()

    def close(self) -> None:
        """Stop, wait for whoever still uses a model or loads one, and unload all."""
        self.request_stop()
        with self._changed:
            self._changed.wait_for(
                lambda: not (self._is_busy or any(m.n_users for m in self._models))
            )
            loaded = self._take_out(self._models)
        _close(loaded)


def _close(models: Sequence[Hosted]) -> None:
    """All of them in their order, also where one fails."""
    with ExitStack() as closing:
        for hosted in reversed(models):  # the last callback is called first
            closing.callback(hosted.close)
