"""The recorded typing session as numbers: when requests come, how long their prompts are, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.trace import Trace

from serve.upstream.routing import prompt_key


@dataclass(frozen=True, slots=True)
class Typing:
    """A typing session; index i is its i-th request.

    Attributes:
        after: seconds to the request from the sending of the one before, or from its completion if that was waited for.
        close: seconds after which the person cancels; None if the person waits for the completion.
        tokens: tokens of the prompt.
        shared: tokens that the prompts i and j have in common at their beginnings.
        same: the first request with the same prompt.
        file: index of the file.
        key: `prompt_key` of the prompt.
        max_tokens: most tokens of a completion.
    """

    after: tuple[float, ...]
    close: tuple[float | None, ...]
    tokens: tuple[int, ...]
    shared: tuple[tuple[int, ...], ...]
    same: tuple[int, ...]
    file: tuple[int, ...]
    key: tuple[str | None, ...]
    max_tokens: int

    def __len__(self) -> int:
        return len(self.after)

    def slowed(self, times: float) -> Typing:
        """Return the session of a person who types slower by this factor."""
        close = tuple(None if c is None else c * times for c in self.close)
        return replace(self, after=tuple(a * times for a in self.after), close=close)


def typing_of(trace: Trace, prompts: Sequence[str], characters_per_token: float) -> Typing:
    """Return a trace and its prompts as numbers, with tokens estimated from characters."""
    return Typing(
        after=tuple(e.after / 1000 for e in trace.events),
        close=tuple(None if e.close is None else e.close / 1000 for e in trace.events),
        tokens=tuple(max(1, round(len(p) / characters_per_token)) for p in prompts),
        shared=tuple(
            tuple(int(common(p, q) / characters_per_token) for q in prompts) for p in prompts
        ),
        same=tuple(prompts.index(p) for p in prompts),
        file=tuple(e.file for e in trace.events),
        key=tuple(prompt_key(p) for p in prompts),
        max_tokens=trace.max_tokens,
    )


def common(a: str, b: str) -> int:
    """Return the number of characters that two texts share at their beginnings.

    >>> common("abcd", "abx")
    2
    """
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True, slots=True)
class HourOfTyping:
    """Load of one developer in an hour of uninterrupted typing."""

    requests: float
    finished: float  # those whose completion the person waits for
    prompt_tokens: float
    new_tokens: float  # prompt tokens that the request before it did not have
    generated_tokens: float  # of finished completions; cancelled ones add less than the same again


def hour_of(typing: Typing, seconds_per_completion: float) -> HourOfTyping:
    """Return the load of an hour of typing, if a completion takes `seconds_per_completion`."""
    n = len(typing)
    finished = sum(c is None for c in typing.close)
    hours = (sum(typing.after) + finished * seconds_per_completion) / 3600
    new = sum(
        typing.tokens[i] - max((typing.shared[i][j] for j in range(i)), default=0) for i in range(n)
    )
    return HourOfTyping(
        requests=n / hours,
        finished=finished / hours,
        prompt_tokens=sum(typing.tokens) / hours,
        new_tokens=new / hours,
        generated_tokens=finished * typing.max_tokens / hours,
    )
