"""The thread that owns the decoder, and the queues to and from it.

Any thread may submit and cancel generations without blocking. Requests go in through one queue; events come out through
one queue for each generation. Every accepted request ends with one `Finished`, even if the engine fails.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from serve.engine import Engine
from serve.metrics import EngineMetrics
from serve.request import Event, Finished, Usage
from serve.runner.admission import Admission
from serve.runner.compute_lock import ComputeLock
from serve.runner.generation import Generation
from serve.runner.restart_limit import RestartLimit, engine_failure
from serve.runner.step_watch import StepWatch
from serve.runner.throughput import LONGEST
from turbopilot.base.errors import DeviceLost, ModelChanged, Overloaded, TurboPilotError
from turbopilot.base.threads import too_many_threads

log = logging.getLogger("turbopilot.engine")
QUIET = 1.0  # seconds without a request after which it may measure this machine
PAUSE = 0.05  # seconds without a request after which the engine may look ahead, or ask again whether it has to wait

Command: TypeAlias = tuple[Literal["begin", "cancel"], Generation] | TurboPilotError | None


class EngineRunner(Admission):
    """Runs an engine in a separate thread.

    Args:
        engine: the engine; it must not be used elsewhere.
        max_open: maximum number of queued and running requests of normal priority, unless a single generation has more.
        compute_lock: shared by the engines of one process; None makes one for this engine.
        clock: returns seconds; used for the time before a retry and the limit on restarts.
    """

    is_remote = False

    def __init__(
        self,
        engine: Engine,
        *,
        max_open: int = 65,
        compute_lock: ComputeLock | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self._engine = engine
        self._max_open = max_open
        self.watch = StepWatch(engine, compute_lock or ComputeLock())
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self.n_restarts = 0  # number of restarts after a failure; written under the lock
        # Used only by the engine's thread:
        self._open: dict[int, Generation] = {}  # by the ids of their requests
        self._next_id = 0
        self._broke: Exception | None = None
        self._restarts = RestartLimit(clock)
        self._warm = threading.Event()
        self._thread = threading.Thread(target=self._run, name="turbopilot-engine", daemon=True)

    def start(self) -> None:
        """Start the thread and wait until the engine is warmed up, or set `failure`."""
        try:
            self._thread.start()
        except RuntimeError as e:
            self._shut_down(too_many_threads(e))
        else:
            self._warm.wait()

    @property
    def metrics(self) -> EngineMetrics:
        """The engine's metrics."""
        return self._engine.metrics

    def submit(self, generation: Generation) -> None:
        """Queue a generation.

        Raises:
            Overloaded: the queue is full, the engine is stalled, or the server is shutting down.
            DecoderFailed: the engine has failed and was not restarted.
        """
        with self._lock:
            if not self._refuse and (stalled := self.watch.stalled):
                raise Overloaded(stalled, retry_after=LONGEST, hint="restart the server")
            self._admit(len(generation.requests), self._max_open, is_low=generation.is_low)
            self._inbox.put(("begin", generation))

    def cancel(self, generation: Generation) -> None:
        """Cancel the requests of a generation that have not ended."""
        self._inbox.put(("cancel", generation))

    def request_stop(self) -> None:
        """Refuse new generations and cancel the open ones, without waiting for the thread."""
        with self._lock:
            self.drain()
            self.is_cut = True
            self._inbox.put(None)

    def close(self) -> None:
        """Stop the thread and wait until it has ended."""
        self.request_stop()
        if self._thread.ident is not None:
            self._thread.join()

    def fail(self, error: TurboPilotError) -> None:
        """Refuse new generations with an error, and end the open ones with it, without waiting for the thread."""
        with self._lock:
            self._refuse = self._refuse or error
            self._inbox.put(error)

    def _run(self) -> None:
        failure: TurboPilotError | None = None
        try:
            self.watch.warm_up()
            self._warm.set()
            while failure is None and not self._work():
                failure = self._recover()
        except TurboPilotError as e:  # from the warm-up, a changed model or a lost worker
            if self._warm.is_set() and not isinstance(e, DeviceLost):  # a worker may return
                log.critical("%s; completions are no longer possible", e)
            failure = e
        except BaseException as e:  # clients must not wait for a thread that has ended
            log.critical("the engine's thread ended; no more completions", exc_info=e)
            failure = engine_failure(e)
        finally:
            self._shut_down(failure)
            self._warm.set()

    def _work(self) -> bool:
        """Run commands and steps until stopped; return False if the engine failed."""
        try:
            while self._obey():
                with self.watch.turn():
                    events = self._engine.step()
                self._deliver(events)
        except (ModelChanged, DeviceLost):
            raise
        except Exception as e:
            log.exception("the engine failed")
            self._broke = e
            return False
        return True

    def _recover(self) -> TurboPilotError | None:
        """End all requests and restart with an empty context; return the error if the engine cannot continue."""
        error, self._broke = engine_failure(self._broke), None
        if not self._restarts.allows():
            log.critical("the engine failed too often; completions are no longer possible")
            return error
        try:
            with self.watch.turn():
                self._deliver(self._engine.reset(error))
        except Exception as e:
            log.critical("the engine could not be restarted: no more completions", exc_info=e)
            return error
        self._end_all(Finished("error", Usage(0, 0), error))  # requests that the engine lost
        with self._lock:
            self.n_restarts += 1
        log.warning("the engine was restarted with an empty context")
        return None

    @property
    def can_look_ahead(self) -> bool:
        """Whether the engine can look ahead and no other model is computing."""
        return self._engine.can_look_ahead and not self.watch.is_computing

    def _obey(self) -> bool:
        """Carry out the commands of the inbox, waiting for one while idle; return False to stop, or raise its error."""
        quiet = QUIET
        while True:
            idle = not self._engine.has_work
            ahead = idle and self.can_look_ahead
            held = self._engine.gives_way and not idle and self.watch.is_needed_elsewhere
            pause = PAUSE if ahead or held else quiet if self._engine.can_tune else None
            try:
                command = self._inbox.get(block=idle or held, timeout=pause)
            except queue.Empty:
                if held:
                    self._deliver(self._engine.expire())
                    continue
                if idle and not ahead:
                    with self.watch.turn():
                        self._engine.tuner.work()
                    quiet = 0.0
                    continue
                if ahead:
                    self._engine.look_ahead()
                return True
            if command is None:
                return False
            if isinstance(command, TurboPilotError):
                raise command
            what, generation = command
            (self._begin if what == "begin" else self._cancel)(generation)

    def _begin(self, generation: Generation) -> None:
        generation.first_id = self._next_id
        self._next_id = generation.ids.stop
        self._open |= dict.fromkeys(generation.ids, generation)  # before `submit`, which may raise
        for i, request in zip(generation.ids, generation.requests, strict=True):
            self._deliver(self._engine.submit(i, request))

    def _cancel(self, generation: Generation) -> None:
        ids = [i for i in generation.ids if self._open.get(i) is generation]
        self._deliver([e for i in ids for e in self._engine.cancel(i)])

    def _deliver(self, emitted: Sequence[tuple[int, Event]]) -> None:
        cancelled = set()
        for request_id, event in emitted:
            if not (generation := self._open.get(request_id)):
                continue  # ended when the engine failed
            if isinstance(event, Finished):
                self._end(request_id, event)
                if event.reason == "cancelled":
                    cancelled.add(generation)
            else:
                generation.deliver(request_id - generation.first_id, event)
        for generation in cancelled:  # if one choice is superseded, the others end too
            self._cancel(generation)

    def _end(self, request_id: int, last: Finished) -> None:
        generation = self._open.pop(request_id)
        self._count_ended(1, is_low=generation.is_low)
        generation.deliver(request_id - generation.first_id, last)

    def _end_all(self, last: Finished) -> None:
        for request_id in list(self._open):
            self._end(request_id, last)

    def _shut_down(self, failure: TurboPilotError | None) -> None:
        """End all accepted requests, including those in the inbox."""
        with self._lock:
            self.failure = failure
            self._refuse = failure or self._refuse
        if failure is None:
            try:
                self._deliver(self._engine.fail_all())
            except Exception:
                log.exception("could not end the requests while shutting down")
        last = Finished("error" if failure else "cancelled", Usage(0, 0), failure)
        self._end_all(last)
        while not self._inbox.empty():
            command = self._inbox.get()
            if isinstance(command, tuple) and command[0] == "begin":
                generation = command[1]
                self._count_ended(len(generation.requests), is_low=generation.is_low)
                for index in range(len(generation.requests)):
                    generation.deliver(index, last)
        if failure is None:
            try:
                self._engine.close()
            except Exception:
                log.exception("could not save the prefix cache while shutting down")
