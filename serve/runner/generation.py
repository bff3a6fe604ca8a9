"""Requests that were submitted together: their events, and the answer collected from them.

The engine's thread delivers events and never waits; one other thread takes them. `max_tokens` limits the number of
queued events.
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
from serve.runner.request_ends import RequestEnds
from turbopilot.base.errors import Overloaded, Superseded

if TYPE_CHECKING:
    from serve.runner.contract import Runner

# Registers a function that is called once when the client disconnects, or at once if it already has. Returns a function
# that removes the registration.
WhenGone: TypeAlias = Callable[[Callable[[], None]], Callable[[], object]]


class ClientGone(Exception):
    """The client disconnected."""


def stays(_: Callable[[], None]) -> Callable[[], object]:
    """Register nothing: the `WhenGone` of a client that never disconnects."""
    return lambda: None


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished text.

    Attributes:
        stop_string: the stop string that ended the text, or "".
        tokens: tokens of the text, if log probabilities are requested.
        prompt_tokens: tokens of the prompt, if it is scored.
    """

    text: str
    finish_reason: str
    usage: Usage
    stop_string: str = ""
    tokens: tuple[ChosenToken, ...] = ()
    prompt_tokens: tuple[ChosenToken, ...] = ()

    @classmethod
    def of(cls, events: Sequence[Event]) -> Choice:
        """Return the choice made of all events of one request."""
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
        """Mean log probability of the text's tokens, which is independent of its length."""
        return fmean(t.token.logprob for t in self.tokens) if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """All choices in order, and their total token counts."""

    choices: tuple[Choice, ...]
    usage: Usage


class Generation:
    """Requests that run together: iterate over `events`, or `collect` them.

    Args:
        runner: runs the requests.
        requests: at least one: `best_of` for each prompt. Events refer to them by index, 0 … n-1.
        whole: deliver all events together when all requests have finished or one failed, so that the taker is woken
            once instead of for every token.
        n: number of choices for each prompt.
        best_of: number of requests for each prompt.
        truncated: see `PromptBuilder.build`.
    """

    def __init__(
        self,
        runner: Runner,
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
        # From the engine's thread to the taker; None only wakes the taker.
        self._handed: queue.SimpleQueue[Sequence[tuple[int, Event]] | None] = queue.SimpleQueue()
        # Used only by the engine's thread:
        self.first_id = 0
        self._whole = whole
        self._collected: list[tuple[int, Event]] = []
        self._n_running = len(requests)
        # Used only by the taker:
        self._ready: deque[tuple[int, Event]] = deque()
        self._n_untaken = len(requests)
        self.ends = RequestEnds(len(requests))
        self.n_ahead: int | None = None  # open requests when it was submitted, if known
        self.submitted: float | None = None  # time of its submission
        # From then until the engine's thread takes it, which may compute a step before.
        self.inbox_seconds = 0.0

    @property
    def ids(self) -> range:
        """Ids of the requests in the engine."""
        return range(self.first_id, self.first_id + len(self.requests))

    @property
    def is_whole(self) -> bool:
        """Whether all events are delivered together."""
        return self._whole

    @property
    def is_low(self) -> bool:
        """Whether the requests have low priority."""
        return self.requests[0].is_low

    @property
    def is_finished(self) -> bool:
        """Whether the terminal event of every request has been taken."""
        return not self._n_untaken

    @property
    def usage(self) -> Usage:
        """Token counts of the finished requests. A prompt counts once, regardless of its number of choices."""
        usages = self.ends.usages
        firsts = [u for i, u in usages.items() if i % self._best_of == 0]
        everyone = usages.values()
        queued = (u.queue_seconds for u in everyone if u.queue_seconds is not None)
        return Usage(
            sum(u.prompt_tokens for u in firsts),
            sum(u.completion_tokens for u in everyone),
            sum(u.cached_tokens for u in firsts),
            sum(u.drafted_tokens for u in everyone),
            sum(u.accepted_tokens for u in everyone),
            max((u.prompt_seconds for u in everyone), default=0.0),
            max((u.predict_seconds for u in everyone), default=0.0),
            sum(u.predicted_tokens for u in everyone),
            sum(u.confirmed_tokens for u in everyone),
            max(queued, default=None),
        )

    def events(self, when_gone: WhenGone = stays) -> Iterator[tuple[int, Event]]:
        """Yield (index of the request, event) as events arrive, until every request has finished.

        The requests are cancelled when the caller stops iterating or the client disconnects. Requests superseded by a
        newer one of the same session end as "cancelled".

        Raises:
            ClientGone: the client disconnected.
            TurboPilotError: a request failed.
        """
        forget = when_gone(self.abandon)
        try:
            while not self.is_finished:
                item = self.next_event()
                if item is None:
                    raise ClientGone
                self._check(item[1])
                yield item
        finally:
            forget()
            self.cancel()

    def _check(self, event: Event) -> None:
        if isinstance(event, Finished):
            if event.error:
                raise event.error
            if event.reason == "cancelled" and self._runner.is_cut:
                raise Overloaded(self._runner.why_stopped)

    def collect(self, when_gone: WhenGone = stays) -> Answer:
        """Wait for all choices.

        Raises:
            ClientGone: the client disconnected.
            Superseded: a newer request of the same session replaced this one.
            TurboPilotError: a request failed.
        """
        events: list[list[Event]] = [[] for _ in self.requests]
        for index, event in self.events(when_gone):
            events[index].append(event)
        choices = [Choice.of(e) for e in events]
        if any(c.finish_reason == "cancelled" for c in choices):
            raise Superseded("a newer request of the same session replaced this one")
        if self._best_of > self._n:
            choices = self._best(choices)
        return Answer(tuple(choices), self.usage)

    def _best(self, choices: list[Choice]) -> list[Choice]:
        """Return the `n` likeliest choices of each prompt, likeliest first."""
        best: list[Choice] = []
        for at in range(0, len(choices), self._best_of):
            texts = choices[at : at + self._best_of]
            best += sorted(texts, key=lambda c: -c.mean_logprob)[: self._n]
        return best

    def next_event(self, timeout: float | None = None) -> tuple[int, Event] | None:
        """Wait for the next (index of the request, event).

        Returns:
            None if no event arrived within the timeout (seconds), or if `abandon` was called.
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
        """Cancel the requests that have not ended; their terminal events still follow. Further calls do nothing."""
        if not self._is_cancelled and not self.is_finished:
            self._is_cancelled = True
            self._runner.cancel(self)

    def abandon(self) -> None:
        """Cancel the requests and wake the thread that waits for an event."""
        self.cancel()
        self._handed.put(None)

    def deliver(self, index: int, event: Event) -> None:
        """Deliver an event to the taker without blocking; called by the engine's thread."""
        last = event if isinstance(event, Finished) else None
        if last:  # before the taker gets it and reads `usage`
            self.ends.add(index, last)
        if self._whole:
            self._collected.append((index, event))
            self._n_running -= last is not None
            if last and (not self._n_running or last.error):
                self._handed.put(self._collected)
                self._collected = []
        else:
            self._handed.put([(index, event)])
