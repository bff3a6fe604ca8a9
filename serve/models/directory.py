"""Which model answers. Knows nothing of HTTP, threads or llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from serve.models.generation import ClientWatch
from serve.models.service import CompletionService, ModelInfo

STAYS: Final = ClientWatch()
"""A client that never leaves."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """How things stand with one model.

    Attributes:
        name: the model's.
        state: "unloaded" is loaded by the first request for it; "loading" lets requests wait; "ok" computes them;
            "draining" ends what it has; "failed" could not be loaded, or its engine broke for good.
        running: requests that are computed.
        waiting: requests that are not yet, or wait for the model to be loaded.
        loads: times that it was loaded.
        reason: why it failed; "" where it has not.
    """

    name: str
    state: Literal["unloaded", "loading", "ok", "draining", "failed"]
    running: int = 0
    waiting: int = 0
    loads: int = 0
    reason: str = ""


class Models(Protocol):
    """The models of a server. Callable from any thread."""

    def use(
        self, name: str, watch: ClientWatch = STAYS
    ) -> AbstractContextManager[CompletionService]:
        """The model of this name, the default where there is none; loaded, and it stays so meanwhile.

        A completion that was started keeps its model loaded, too.

        Args:
            name: as the client calls it.
            watch: ends the wait for a model that is loading, when the client leaves.

        Raises:
            Overloaded: there is no room for it, or too many wait already.
            ClientGone: the client left.
            TurboPilotError: it cannot be loaded.
        """

    @property
    def known(self) -> tuple[ModelInfo, ...]:
        """All models, the default first."""

    @property
    def loaded(self) -> tuple[CompletionService, ...]:
        """Those that can answer at once, in the order of `known`."""

    @property
    def statuses(self) -> tuple[ModelStatus, ...]:
        """How things stand with each, the default first. Waits for nothing."""


def status_of(service: CompletionService, *, waiting: int = 0, loads: int = 1) -> ModelStatus:
    """How things stand with a loaded model.

    Args:
        service: the model's.
        waiting: requests that it has not been given yet.
        loads: times that it was loaded.
    """
    now = service.status
    return ModelStatus(
        service.model.name,
        now.state,
        now.running,
        now.waiting + waiting,
        loads,
        service.failure.message if service.failure else "",
    )


class OneModel:
    """Any name means the one model there is, and it is loaded."""

    def __init__(self, service: CompletionService) -> None:
        self._service = service

    @contextmanager
    def use(self, name: str, watch: ClientWatch = STAYS) -> Iterator[CompletionService]:
        """It."""
        yield self._service

    @property
    def known(self) -> tuple[ModelInfo, ...]:
        """It alone."""
        return (self._service.model,)

    @property
    def loaded(self) -> tuple[CompletionService, ...]:
        """It alone."""
        return (self._service,)

    @property
    def statuses(self) -> tuple[ModelStatus, ...]:
        """Its own."""
        return (status_of(self._service),)
