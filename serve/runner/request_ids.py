"""Whose request is whose: engine ids ↔ jobs. For the engine's thread alone."""

from __future__ import annotations

from serve.runner.job import Job


class Ledger:
    """The requests that have not ended."""

    def __init__(self) -> None:
        self._owners: dict[int, tuple[Job, int]] = {}
        self._ids: dict[Job, set[int]] = {}
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._owners)

    def open(self, job: Job) -> range:
        """New ids for all of a job's requests, in their order."""
        ids = range(self._next_id, self._next_id + job.n_requests)
        self._next_id = ids.stop
        self._ids[job] = set(ids)
        self._owners |= {i: (job, index) for index, i in enumerate(ids)}
        return ids

    def owner(self, request_id: int) -> tuple[Job, int] | None:
        """(Its job, its index there); None where it has ended."""
        return self._owners.get(request_id)

    def ids(self, job: Job) -> tuple[int, ...]:
        """A job's requests that have not ended."""
        return tuple(self._ids.get(job, ()))

    def close(self, request_id: int) -> None:
        """It has ended."""
        job, _ = self._owners.pop(request_id)
        self._ids[job].discard(request_id)
        if not self._ids[job]:
            del self._ids[job]

    def clear(self) -> list[tuple[Job, int]]:
        """Everything has ended; gives what had not yet, as (job, index)."""
        owners = list(self._owners.values())
        self._owners.clear()
        self._ids.clear()
        return owners
