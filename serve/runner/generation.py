"""A completion under way: requests that were submitted together, their events, and the answer made of them.

The engine's thread delivers and never waits; one other thread takes. `max_tokens` bounds the events in between.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, TypeAlias

from serve.request import (
    ChosenToken,
    Event,
    Finished,
    GenerationRequest,
    PromptScored,
    TextDelta,
    Usage,
)
from turbopilot.base.errors import Overloaded, Superseded

if TYPE_CHECKING:
    from serve.runner.runner import EngineRunner

# Calls a function once when the client has left, at once if it has; returns a function that withdraws this.
WhenGone: TypeAlias = Callable[[Callable[[], None]], Callable[[], object]]


class ClientGone(Exception):
    """The client has left."""


def stays(_: Callable[[], None]) -> Callable[[], object]:
    """Report nothing: the `WhenGone` of a client that never leaves."""
    return lambda: None


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished text.

    Attributes:
        stop_string: the one that ended it, or "".
        tokens: those of the text, if log probabilities are asked for.
        prompt_tokens: those of the prompt, if they are to be scored.
    """

    text: str
    finish_reason: str
    usage: Usage
    stop_string: str = ""
    tokens: tuple[ChosenToken, ...] = ()
    prompt_tokens: tuple[ChosenToken, ...] = ()

    @classmethod
    def of(cls, events: Sequence[Event]) -> Choice:
        """Join all events of one request."""
        end = events[-1]
        assert isinstance(end, Finished)
        deltas = [e for e in events if isinstance(e, TextDelta)]
        return cls(
            "".join(d.text for d in deltas),
            end.reason,
            end.usage,
            end.stop_string,
            tuple(t for d in deltas for t in d.tokens),
            tuple(t for e in events if isinstance(e, PromptScored) for t in e.tokens),
        )

    @property
    def mean_logprob(self) -> float:
        """How likely the text is, independent of its length."""
        return fmean(t.token.logprob for t in self.tokens) if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """All choices in order, and their token counts."""

    choices: tuple[Choice, ...]
    usage: Usage


class Generation:
    """Requests that run together: iterate `events`, or `collect` them.

    Args:
        runner: computes them.
        requests: at least one: `best_of` for each prompt. Events name them 0 … n-1.
        whole: hand nothing out before all have finished or one failed: the taker is woken once, not for every token.
        n: choices for each prompt.
        best_of: requests for each prompt.
        truncated: see `PromptBuilder.build`.
    """

    def __init__(
        self,
        runner: EngineRunner,
        requests: Sequence[GenerationRequest],
        *,
        whole: bool = False,
        n: int = 1,
        best_of: int = 1,
        truncated: Sequence[str] = (),
    ) -> None:
        self.requests = requests
        self.truncated = truncated
        self._runner = runner
        self._n, self._best_of = n, best_of
        self._is_cancelled = False
        # From the engine's thread to the taker; None only wakes.
        self._handed: queue.SimpleQueue[Sequence[tuple[int, Event]] | None] = queue.SimpleQueue()
        # The engine's thread alone:
        self.first_id = 0
        self._whole = whole
        self._collected: list[tuple[int, Event]] = []
        self._n_running = len(requests)
        # The taker alone:
        self._ready: deque[tuple[int, Event]] = deque()
        self._n_untaken = len(requests)
        self._usages: dict[int, Usage] = {}

    @property
    def ids(self) -> range:
        """Ids of the requests in the engine."""
        return range(self.first_id, self.first_id + len(self.requests))

    @property
    def is_finished(self) -> bool:
        """Whether the terminal event of every request has been taken."""
        return not self._n_untaken

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

    def events(self, when_gone: WhenGone = stays) -> Iterator[tuple[int, Event]]:
        """Yield (index of the request, event) as they come, until every request has finished.

        The requests are cancelled when the caller stops iterating or the client leaves. Requests that a newer one of
        the same session supersedes end as "cancelled".

        Raises:
            ClientGone: the client left.
            TurboPilotError: a request failed.
        """
        forget = when_gone(self.abandon)
        try:
            while not self.is_finished:
                item = self.next_event()
                if item is None:
                    raise ClientGone
                self._check(*item)
                yield item
        finally:
            forget()
            self.cancel()

    def _check(self, index: int, event: Event) -> None:
        if isinstance(event, Finished):
            if event.error:
                raise event.error
            if event.reason == "cancelled" and self._runner.is_cut:
                raise Overloaded("the server is shutting down")
            self._usages[index] = event.usage

    def collect(self, when_gone: WhenGone = stays) -> Answer:
        """Wait for all choices. Raises as `events` does.

        Raises:
            Superseded: a newer request of the same session replaced this one.
        """
        events: list[list[Event]] = [[] for _ in self.requests]
        for index, event in self.events(when_gone):
            events[index].append(event)
        choices = [Choice.of(e) for e in events]
        if any(c.finish_reason == "cancelled" for c in choices):
            raise Superseded("a newer request of the same session took the place of this one")
        if self._best_of > self._n:
            choices = self._best(choices)
        return Answer(tuple(choices), self.usage)

    def _best(self, choices: list[Choice]) -> list[Choice]:
        """Return the likeliest texts of each prompt, the best first."""
        best: list[Choice] = []
        for at in range(0, len(choices), self._best_of):
            texts = choices[at : at + self._best_of]
            best += sorted(texts, key=lambda c: -c.mean_logprob)[: self._n]
        return best

    def next_event(self, timeout: float | None = None) -> tuple[int, Event] | None:
        """Wait for the next (index of the request, event).

        Returns:
            None if none came within the timeout (seconds), or if `abandon` was called.
        """
        if not self._ready:
            try:
                handed = self._handed.get(timeout=timeout)
            except queue.Empty:
                return None
            if handed is None:
                return None
            self._ready.extend(handed)
        index, event = self._ready.popleft()
        if isinstance(event, Finished):
            self._n_untaken -= 1
        return index, event

    def cancel(self) -> None:
        """End what has not ended; the terminal events still come. Can be repeated."""
        if not self._is_cancelled and not self.is_finished:
            self._is_cancelled = True
            self._runner.cancel(self)

    def abandon(self) -> None:
        """Cancel, and wake the thread that waits for an event."""
        self.cancel()
        self._handed.put(None)

    def deliver(self, index: int, event: Event) -> None:
        """Hand out an event, from the engine's thread. Never waits."""
        if not self._whole:
            self._handed.put([(index, event)])
            return
        self._collected.append((index, event))
        if isinstance(event, Finished):
            self._n_running -= 1
            if not self._n_running or event.error:
                self._handed.put(self._collected)
                self._collected = []
