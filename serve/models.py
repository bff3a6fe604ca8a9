"""Which model answers. Knows nothing of HTTP, threads or llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from serve.service import CompletionService, ModelInfo


class Models(Protocol):
    """The models of a server. Callable from any thread."""

    def use(self, name: str) -> AbstractContextManager[CompletionService]:
        """The model of this name, the default where there is none; loaded, and it stays so meanwhile.

        A completion that was started keeps its model loaded, too.
        """

    @property
    def known(self) -> tuple[ModelInfo, ...]:
        """All models, the default first."""

    @property
    def loaded(self) -> tuple[CompletionService, ...]:
        """Those that can answer at once, the default first."""


class OneModel:
    """Any name means the one model there is."""

    def __init__(self, service: CompletionService) -> None:
        self._service = service

    @contextmanager
    def use(self, name: str) -> Iterator[CompletionService]:
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
