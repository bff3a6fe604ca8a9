"""A completion under way: its events, or its whole answer. Knows nothing of HTTP, JSON or models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serve.request import Event, Finished, TextDelta, Usage
from serve.runner import EngineRunner
from serve.runner.job import Job
from turbopilot.errors import Overloaded, Superseded

# Where nothing tells that a client left, this is how often to look, in seconds. Tokens wake us earlier.
LOOK_AROUND = 0.05


class ClientGone(Exception):
    """Nobody is there to read the answer."""


@dataclass(frozen=True, slots=True)
class ClientWatch:
    """How to learn that a client left. The first that is there is used; without any, clients stay.

    Attributes:
        when_gone: calls a function once when the client has left (at once, where it has), until what it returns
            is called.
        is_gone: whether it has left; has to be asked again and again.
    """

    when_gone: Callable[[Callable[[], None]], Callable[[], object]] | None = None
    is_gone: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished text."""

    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """All choices, in order, and what they cost."""

    choices: tuple[Choice, ...]
    usage: Usage


class Generation:
    """A completion under way: iterate `events`, or `collect` them."""

    def __init__(
        self, runner: EngineRunner, job: Job, *, n: int, truncated: tuple[str, ...]
    ) -> None:
        self._runner = runner
        self._job = job
        self._n = n
        self._usages: dict[int, Usage] = {}
        self.truncated = truncated

    @property
    def usage(self) -> Usage:
        """Token counts of what has finished. A prompt counts once, however many choices it has."""
        firsts = [u for i, u in self._usages.items() if i % self._n == 0]
        everyone = self._usages.values()
        return Usage(
            sum(u.prompt_tokens for u in firsts),
            sum(u.completion_tokens for u in everyone),
            sum(u.cached_tokens for u in firsts),
            sum(u.drafted_tokens for u in everyone),
            sum(u.accepted_tokens for u in everyone),
        )

    def events(self, watch: ClientWatch) -> Iterator[tuple[int, Event]]:
        """(Index of the choice, event) as they come, until every choice has finished.

        Whoever stops iterating, or whose client left, frees the engine. Where a newer request took this one's
        place, the choices end as "cancelled".

        Raises:
            ClientGone: the client left.
            TurboPilotError: a choice could not be finished.
        """
        forget = watch.when_gone(self._job.abandon) if watch.when_gone else None
        polls = watch.is_gone if forget is None else None
        try:
            while not self._job.is_finished:
                item = self._job.next_event(LOOK_AROUND if polls else None)
                if polls and polls():
                    raise ClientGone
                if item:
                    yield self._checked(*item)
                elif not polls:
                    raise ClientGone  # abandoned
        finally:
            if forget:
                forget()
            self.cancel()

    def _checked(self, index: int, event: Event) -> tuple[int, Event]:
        if isinstance(event, Finished):
            if event.error:
                raise event.error
            if event.reason == "cancelled" and self._runner.is_cut:
                raise Overloaded("the server is shutting down")
            self._usages[index] = event.usage
        return index, event

    def collect(self, watch: ClientWatch) -> Answer:
        """Wait for all choices. Raises as `events` does.

        Raises:
            Superseded: a newer request took this one's place.
        """
        texts: dict[int, list[str]] = {}
        reasons: dict[int, str] = {}
        for index, event in self.events(watch):
            if isinstance(event, TextDelta):
                texts.setdefault(index, []).append(event.text)
            else:
                reasons[index] = event.reason
        if "cancelled" in reasons.values():
            raise Superseded("a newer request of the same session took the place of this one")
        choices = tuple(Choice("".join(texts.get(i, ())), reasons[i]) for i in sorted(reasons))
        return Answer(choices, self.usage)

    def cancel(self) -> None:
        """Free the engine; harmless when the job has ended."""
        if not self._job.is_finished:
            self._job.cancel()
