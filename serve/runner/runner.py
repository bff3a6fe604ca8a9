"""The one thread that owns the decoder, and the queues to and from it. Knows nothing of HTTP or llama.cpp.

Calls come from any thread and wait for nothing: requests go in by one queue, events come out by one queue
a job. Every accepted request ends in one `Finished`, also when the engine breaks, its thread dies or the
server is shut down.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from serve.metrics import EngineMetrics
from serve.request import Event, Finished, GenerationRequest, Usage
from serve.runner.commands import Cancel, Stop, Submit
from serve.runner.job import Job
from serve.runner.request_ids import Ledger
from serve.runner.steps import Steps
from serve.runner.throughput import Throughput
from turbopilot.base.errors import DecoderFailed, Overloaded, TurboPilotError

log = logging.getLogger("turbopilot.engine")

# An engine that breaks more often than this within so many seconds would only break again.
MAX_RESTARTS = 3
# After so many seconds without a request, the engine may compute what is likely wanted next.
PAUSE = 0.05
RESTART_WINDOW = 60.0


class EngineRunner:
    """Runs an engine in a thread of its own.

    Args:
        engine: used by nobody else from now on.
        max_open: requests that may wait or run at once; more are refused. An idle server takes any job.
        clock: seconds, for estimates only.
    """

    def __init__(
        self, engine: Steps, *, max_open: int = 65, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._max_open = max_open
        self._clock = clock
        self._inbox: queue.SimpleQueue[Submit | Cancel | Stop] = queue.SimpleQueue()
        # Guards the block below; reentrant, as a signal handler may stop us while we hold it.
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._n_open = 0
        self._n_refused = 0
        self._n_restarts = 0
        self._is_cut = False
        self._refuse: TurboPilotError | None = None
        self._failure: TurboPilotError | None = None
        self._throughput = Throughput()
        # Touched by the engine's thread alone:
        self._ledger = Ledger()
        self._broke: Exception | None = None
        self._restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._warm = threading.Event()
        self._thread = threading.Thread(target=self._run, name="turbopilot-engine", daemon=True)

    def start(self) -> None:
        """Begin to serve; returns when the engine is warm."""
        self._thread.start()
        self._warm.wait()

    @property
    def failure(self) -> TurboPilotError | None:
        """Why the engine is dead; None while it lives or when it was stopped on purpose."""
        with self._lock:
            return self._failure

    @property
    def is_draining(self) -> bool:
        """Whether it was told to end: it takes nothing new."""
        with self._lock:
            return self._refuse is not None and self._failure is None

    @property
    def is_cut(self) -> bool:
        """Whether what runs has been told to end at once, too."""
        with self._lock:
            return self._is_cut

    @property
    def n_open(self) -> int:
        """Requests that wait or run."""
        with self._lock:
            return self._n_open

    @property
    def n_refused(self) -> int:
        """Jobs that were refused because too much was waiting."""
        with self._lock:
            return self._n_refused

    @property
    def n_restarts(self) -> int:
        """Times that the engine broke and was begun anew."""
        with self._lock:
            return self._n_restarts

    @property
    def metrics(self) -> EngineMetrics:
        """The engine's."""
        return self._engine.metrics

    def submit(self, requests: Sequence[GenerationRequest], *, whole: bool = False) -> Job:
        """Queue requests as one job.

        Args:
            requests: at least one.
            whole: whether the events are wanted together at the end, or as they come.

        Raises:
            Overloaded: too much waits, or the server is shutting down.
            DecoderFailed: the engine has died.
        """
        job = Job(len(requests), whole=whole, on_cancel=lambda job: self._post(Cancel(job)))
        with self._lock:
            if self._refuse:
                raise self._refuse
            excess = self._n_open + len(requests) - self._max_open
            if self._n_open and excess > 0:
                self._n_refused += 1
                raise Overloaded(
                    f"{self._n_open} requests are waiting or running already",
                    retry_after=self._throughput.seconds_until(excess, self._clock()),
                    hint="try again",
                )
            self._n_open += len(requests)
            self._inbox.put(Submit(job, tuple(requests)))
        return job

    def drain(self) -> None:
        """Refuse new jobs from now on; the present ones go on."""
        with self._lock:
            self._refuse = self._refuse or Overloaded("the server is shutting down")

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing waits or runs; False where the timeout (seconds) was over before."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._n_open, timeout)

    def request_stop(self) -> None:
        """Refuse new jobs and end the present ones as cancelled. Returns at once."""
        with self._lock:
            self.drain()
            self._is_cut = True
            self._inbox.put(Stop())

    def close(self) -> None:
        """Stop, and wait until the thread has ended."""
        self.request_stop()
        self._thread.join()

    def _post(self, command: Cancel) -> None:
        self._inbox.put(command)

    def _run(self) -> None:
        failure: TurboPilotError | None = None
        try:
            self._engine.warm_up()
            self._warm.set()
            while failure is None and not self._work():
                failure = self._recover()
        except BaseException as e:  # what kills the thread must not take its clients with it
            log.critical("the engine's thread was ended; no more completions", exc_info=e)
            failure = _broken(e)
        finally:
            self._shut_down(failure)
            self._warm.set()

    def _work(self) -> bool:
        """Obey and step until told to stop; False where the engine broke."""
        try:
            while self._obey():
                self._deliver(self._engine.step())
        except Exception as e:
            log.exception("the engine broke")
            self._broke = e
            return False
        return True

    def _recover(self) -> TurboPilotError | None:
        """End all requests and begin anew with an empty context; an error where that is of no use."""
        error, self._broke = _broken(self._broke), None
        now = self._clock()
        often = len(self._restarts) == MAX_RESTARTS and now - self._restarts[0] < RESTART_WINDOW
        if often:
            log.critical("the engine breaks again and again; no more completions")
            return error
        self._restarts.append(now)
        try:
            self._deliver(self._engine.reset(error))
        except Exception as e:
            log.critical("the engine cannot be begun anew; no more completions", exc_info=e)
            return error
        self._end_all(Finished("error", Usage(0, 0), error))  # whatever the engine has lost
        with self._lock:
            self._n_restarts += 1
        log.warning("the engine goes on with an empty context")
        return None

    def _obey(self) -> bool:
        """Carry out what is in the inbox, waiting for it when there is nothing else to do; False to stop."""
        while True:
            idle = not self._engine.has_work
            pause = PAUSE if idle and self._engine.can_look_ahead else None
            try:
                command = self._inbox.get(block=idle, timeout=pause)
            except queue.Empty:
                if idle:
                    self._engine.look_ahead()
                return True
            if isinstance(command, Stop):
                return False
            if isinstance(command, Submit):
                self._accept(command)
            else:
                self._cancel(command.job)

    def _accept(self, command: Submit) -> None:
        ids = self._ledger.open(command.job)  # all are ours before anything can go wrong
        for i, request in zip(ids, command.requests, strict=True):
            self._deliver(self._engine.submit(i, request))

    def _cancel(self, job: Job) -> None:
        self._deliver([e for i in self._ledger.ids(job) for e in self._engine.cancel(i)])

    def _deliver(self, emitted: Sequence[tuple[int, Event]]) -> None:
        cancelled = set()
        for request_id, event in emitted:
            if not (owner := self._ledger.owner(request_id)):
                continue  # it was ended when the engine broke
            job, index = owner
            if isinstance(event, Finished):
                self._ledger.close(request_id)
                self._count_ended(1)
                if event.reason == "cancelled":
                    cancelled.add(job)
            job.deliver(index, event)
        for (
            job
        ) in cancelled:  # where a newer request took the place of one choice, the others go, too
            self._cancel(job)

    def _count_ended(self, n: int) -> None:
        with self._lock:
            self._throughput.note(n, self._clock())
            self._n_open -= n
            if not self._n_open:
                self._idle.notify_all()

    def _end_all(self, last: Finished) -> None:
        for job, index in self._ledger.clear():
            self._count_ended(1)
            job.deliver(index, last)

    def _shut_down(self, failure: TurboPilotError | None) -> None:
        """End everything that was accepted, also what is still in the inbox."""
        with self._lock:
            self._failure = failure
            self._refuse = failure or self._refuse
        if failure is None:
            try:
                self._deliver(self._engine.fail_all())
            except Exception:
                log.exception("while shutting down")
        last = Finished("error" if failure else "cancelled", Usage(0, 0), failure)
        self._end_all(last)
        while not self._inbox.empty():
            command = self._inbox.get()
            if isinstance(command, Submit):
                self._count_ended(len(command.requests))
                for index in range(len(command.requests)):
                    command.job.deliver(index, last)
        if failure is None:
            try:
                self._engine.close()
            except Exception:
                log.exception("while shutting down")


def _broken(e: BaseException | None) -> DecoderFailed:
    return DecoderFailed(
        f"the engine broke: {e or type(e).__name__}", hint="if it happens again, restart the server"
    )
