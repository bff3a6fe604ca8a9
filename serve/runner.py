"""The one thread that owns the decoder, and the queues to and from it. Knows nothing of HTTP or llama.cpp.

Calls come from any thread and wait for nothing: requests go in by one queue, events come out by one
unbounded queue per job (bounded by its `max_tokens`), so a slow client never holds up the others. Every
accepted request ends in one `Finished`, also when the engine breaks or is shut down.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from serve.engine import Emitted, Engine
from serve.request import Event, Finished, GenerationRequest, Usage
from turbopilot.errors import DecoderFailed, Overloaded, TurboPilotError

log = logging.getLogger("turbopilot.engine")


class Job:
    """Requests that were submitted together, and their events as they come."""

    def __init__(self, runner: EngineRunner, n_requests: int) -> None:
        self._runner = runner
        self._events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        self._unfinished = set(range(n_requests))

    @property
    def is_finished(self) -> bool:
        """Whether the terminal event of every request has been taken."""
        return not self._unfinished

    def next_event(self, timeout: float | None = None) -> tuple[int, Event] | None:
        """The next (index of the request, event); None where none came within the timeout (seconds)."""
        try:
            index, event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(event, Finished):
            self._unfinished.discard(index)
        return index, event

    def cancel(self) -> None:
        """Nobody waits for the events any more. Harmless when the job has ended."""
        self._runner._post(_Cancel(self))

    def _deliver(self, index: int, event: Event) -> None:
        self._events.put((index, event))


@dataclass(frozen=True, slots=True)
class _Submit:
    job: Job
    requests: tuple[GenerationRequest, ...]


@dataclass(frozen=True, slots=True)
class _Cancel:
    job: Job


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


class EngineRunner:
    """Runs an engine in a thread of its own.

    Args:
        engine: used by nobody else from now on.
        max_jobs: jobs that may wait or run at once; more are refused.
    """

    def __init__(self, engine: Engine, *, max_jobs: int = 24) -> None:
        self._engine = engine
        self._max_jobs = max_jobs
        self._inbox: queue.SimpleQueue[_Submit | _Cancel | _Stop] = queue.SimpleQueue()
        # Guards the three below; reentrant, as a signal handler may stop us while we hold it.
        self._lock = threading.RLock()
        self._n_jobs = 0
        self._refuse: TurboPilotError | None = None
        self._failure: TurboPilotError | None = None
        # Touched by the engine's thread alone:
        self._owners: dict[int, tuple[Job, int]] = {}
        self._unfinished: dict[Job, int] = {}
        self._next_id = 0
        self._thread = threading.Thread(target=self._run, name="turbopilot-engine", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    @property
    def failure(self) -> TurboPilotError | None:
        """Why the engine is dead; None while it lives or when it was stopped on purpose."""
        with self._lock:
            return self._failure

    @property
    def n_jobs(self) -> int:
        """Jobs that wait or run."""
        with self._lock:
            return self._n_jobs

    def submit(self, requests: Sequence[GenerationRequest]) -> Job:
        """Queue requests as one job.

        Raises:
            Overloaded: too many jobs wait, or the server is shutting down.
            DecoderFailed: the engine has died.
        """
        job = Job(self, len(requests))
        with self._lock:
            if self._refuse:
                raise self._refuse
            if self._n_jobs >= self._max_jobs:
                raise Overloaded(f"{self._n_jobs} requests are waiting already", hint="try again")
            self._n_jobs += 1
            self._inbox.put(_Submit(job, tuple(requests)))
        return job

    def request_stop(self) -> None:
        """Refuse new jobs and end the present ones as cancelled. Returns at once."""
        with self._lock:
            self._refuse = self._refuse or Overloaded("the server is shutting down")
            self._inbox.put(_Stop())

    def close(self) -> None:
        """Stop, and wait until the thread has ended."""
        self.request_stop()
        self._thread.join()

    def _post(self, command: _Cancel) -> None:
        self._inbox.put(command)

    def _run(self) -> None:
        failure: TurboPilotError | None = None
        try:
            while self._obey():
                self._deliver(self._engine.step())
        except Exception as e:
            log.exception("the engine broke; the server answers no more completions")
            failure = DecoderFailed(f"the engine broke: {e}", hint="restart the server")
        finally:
            self._shut_down(failure)

    def _obey(self) -> bool:
        """Carry out what is in the inbox, waiting for it when there is nothing else to do; False to stop."""
        while True:
            try:
                command = self._inbox.get(block=not self._engine.has_work)
            except queue.Empty:
                return True
            if isinstance(command, _Stop):
                return False
            if isinstance(command, _Submit):
                self._accept(command)
            else:
                self._cancel(command.job)

    def _accept(self, command: _Submit) -> None:
        first, self._next_id = self._next_id, self._next_id + len(command.requests)
        self._unfinished[command.job] = len(command.requests)
        for index in range(len(command.requests)):  # all are ours before anything can go wrong
            self._owners[first + index] = command.job, index
        for index, request in enumerate(command.requests):
            self._deliver(self._engine.submit(first + index, request))

    def _cancel(self, job: Job) -> None:
        for request_id in [i for i, (owner, _) in self._owners.items() if owner is job]:
            self._deliver(self._engine.cancel(request_id))

    def _deliver(self, emitted: list[Emitted]) -> None:
        for request_id, event in emitted:
            job, index = self._owners[request_id]
            if isinstance(event, Finished):
                del self._owners[request_id]
                self._unfinished[job] -= 1
                if not self._unfinished[job]:
                    del self._unfinished[job]
                    with self._lock:
                        self._n_jobs -= 1
            job._deliver(index, event)

    def _shut_down(self, failure: TurboPilotError | None) -> None:
        """End everything that was accepted, also what is still in the inbox."""
        with self._lock:
            self._failure = failure
            self._refuse = failure or self._refuse
            self._n_jobs = 0
        last = Finished("error" if failure else "cancelled", Usage(0, 0), failure)
        for job, index in self._owners.values():
            job._deliver(index, last)
        self._owners.clear()
        while not self._inbox.empty():
            command = self._inbox.get()
            if isinstance(command, _Submit):
                for index in range(len(command.requests)):
                    command.job._deliver(index, last)
