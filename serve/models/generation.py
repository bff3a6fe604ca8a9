"""A completion under way: its events, or its whole answer. Knows nothing of HTTP, JSON or models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import fmean

from serve.request import ChosenToken, Event, Finished, TextDelta, Usage
from serve.runner import EngineRunner
from serve.runner.job import Job
from turbopilot.base.errors import Overloaded, Superseded

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
    """One finished text.

    Attributes:
        text: it.
        finish_reason: why it ended.
        usage: what it cost.
        stop_string: the one that ended it; "" where none did.
        tokens: those of the text, where log probabilities are asked for.
        prompt_tokens: those of the prompt, where they are to be judged.
    """

    text: str
    finish_reason: str
    usage: Usage
    stop_string: str = ""
    tokens: tuple[ChosenToken, ...] = ()
    prompt_tokens: tuple[ChosenToken, ...] = ()

    @property
    def mean_logprob(self) -> float:
        """Of its tokens: how likely it is, whatever its length."""
        return fmean(t.token.logprob for t in self.tokens) if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """All choices, in order, and what they cost."""

    choices: tuple[Choice, ...]
    usage: Usage


@dataclass(slots=True)
class _Collected:
    """What came of one text so far."""

    texts: list[str] = field(default_factory=list)
    tokens: list[ChosenToken] = field(default_factory=list)
    prompt_tokens: list[ChosenToken] = field(default_factory=list)
    end: Finished | None = None

    def choice(self) -> Choice:
        assert self.end
        return Choice(
            "".join(self.texts),
            self.end.reason,
            self.end.usage,
            self.end.stop_string,
            tuple(self.tokens),
            tuple(self.prompt_tokens),
        )


class Generation:
    """A completion under way: iterate `events`, or `collect` them."""

    def __init__(
        self,
        runner: EngineRunner,
        job: Job,
        *,
        n: int,
        best_of: int,
        truncated: tuple[str, ...],
    ) -> None:
        self._runner = runner
        self._job = job
        self._n, self._best_of = n, best_of
        self._usages: dict[int, Usage] = {}
        self.truncated = truncated

    @property
    def usage(self) -> Usage:
        """Token counts of what has finished. A prompt counts once, however many choices it has."""
        firsts = [u for i, u in self._usages.items() if i % self._best_of == 0]
        everyone = self._usages.values()
        return Usage(
            sum(u.prompt_tokens for u in firsts),
            sum(u.completion_tokens for u in everyone),
            sum(u.cached_tokens for u in firsts),
            sum(u.drafted_tokens for u in everyone),
            sum(u.accepted_tokens for u in everyone),
            max((u.prompt_seconds for u in everyone), default=0.0),
            max((u.predict_seconds for u in everyone), default=0.0),
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
        collected = [_Collected() for _ in range(self._job.n_requests)]
        for index, event in self.events(watch):
            c = collected[index]
            if isinstance(event, Finished):
                c.end = event
            elif isinstance(event, TextDelta):
                c.texts.append(event.text)
                c.tokens += event.tokens
            else:
                c.prompt_tokens += event.tokens
        choices = [c.choice() for c in collected]
        if any(c.finish_reason == "cancelled" for c in choices):
            raise Superseded("a newer request of the same session took the place of this one")
        if self._best_of > self._n:
            choices = self._best(choices)
        return Answer(tuple(choices), self.usage)

    def _best(self, choices: list[Choice]) -> list[Choice]:
        """Of each prompt the likeliest texts, the best first."""
        best: list[Choice] = []
        for at in range(0, len(choices), self._best_of):
            texts = choices[at : at + self._best_of]
            best += sorted(texts, key=lambda c: -c.mean_logprob)[: self._n]
        return best

    def cancel(self) -> None:
        """Free the engine; harmless when the job has ended."""
        if not self._job.is_finished:
            self._job.cancel()
