"""The seam between the engine and the thread that runs it; see `serve.engine`. Knows nothing of threads."""

from __future__ import annotations

from typing import Protocol

from serve.metrics import EngineMetrics
from serve.request import Event, GenerationRequest
from turbopilot.base.errors import TurboPilotError


class Steps(Protocol):
    """What the runner asks of an engine; see `serve.engine`."""

    def warm_up(self) -> None:
        """Called first, by the thread that calls all the rest."""

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""

    @property
    def metrics(self) -> EngineMetrics:
        """What it counts; readable from any thread."""

    @property
    def can_look_ahead(self) -> bool:
        """Whether there is something that nobody asked for yet, worth computing meanwhile."""

    def look_ahead(self) -> None:
        """Begin it."""

    def submit(self, request_id: int, request: GenerationRequest) -> list[tuple[int, Event]]:
        """Accept a request."""

    def cancel(self, request_id: int) -> list[tuple[int, Event]]:
        """End a request; nothing where it has ended."""

    def step(self) -> list[tuple[int, Event]]:
        """Compute one batch."""

    def fail_all(self, error: TurboPilotError | None = None) -> list[tuple[int, Event]]:
        """End every request."""

    def reset(self, error: TurboPilotError) -> list[tuple[int, Event]]:
        """End every request and begin with a new context."""

    def close(self) -> None:
        """Keep what is worth keeping."""
