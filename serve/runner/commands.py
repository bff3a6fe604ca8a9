"""What the engine's thread can be told."""

from __future__ import annotations

from dataclasses import dataclass

from serve.request import GenerationRequest
from serve.runner.job import Job


@dataclass(frozen=True, slots=True)
class Submit:
    """Begin these requests."""

    job: Job
    requests: tuple[GenerationRequest, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for the job any more."""

    job: Job


@dataclass(frozen=True, slots=True)
class Stop:
    """End everything."""
