"""Parts of a finished request's time, and why it was slow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from serve.api.status import RequestEnd, RequestTimes
from serve.request import Finished, Usage

SLOW: Final = 2.0  # a request that takes this many times the median is slow
ENOUGH: Final = 5  # earlier requests for a median
# From the strongest: that of a request with several completions is the first that one of them has.
_ENDS: Final[tuple[RequestEnd, ...]] = (
    "refused", "error", "deadline", "superseded", "cancelled", "length", "stop",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request whose response has ended; times in seconds. It has no text of the request or of its completions.

    Attributes:
        id: see `serve.http.request_log`.
        time: Unix time of its end.
        route: path of its endpoint.
        client: see `serve.status.client_name`.
        model: name of the model that computed it, or that it asked for.
        total: from its arrival until its response was handed to the socket.
        load: wait for the model to be loaded.
        usage: its token counts and times; None if it did not reach the model.
        inbox: wait for the engine's thread, before the engine's own queue.
        n_ahead: open requests when it was queued; None if unknown.
    """

    id: str
    time: float
    route: str
    client: str
    model: str
    status: int
    reason: RequestEnd
    total: float
    load: float = 0.0
    usage: Usage | None = None
    inbox: float = 0.0
    n_ahead: int | None = None
    is_low: bool = False


def end_of(lasts: Sequence[Finished]) -> RequestEnd:
    """Return why a request ended, from the last events of its completions; there is at least one."""
    found = {last.how or last.reason for last in lasts}
    return next(end for end in _ENDS if end in found)


@dataclass(frozen=True, slots=True)
class TimeParts:
    """Parts of a request's time in seconds; together they are its total."""

    load: float = 0.0
    queue: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    other: float = 0.0

    @property
    def longest(self) -> str:
        """Name of the longest part."""
        parts = {name: getattr(self, name) for name in self.__slots__}
        return max(parts, key=lambda name: parts[name])


def parts_of(r: FinishedRequest) -> TimeParts:
    """Return the parts of a request's time.

    If it ended before its first token, the time in which nothing else is known to have happened was that of the stage
    that it had reached. Several completions overlap: their longest times are cut to the total.
    """
    left = r.total

    def take(seconds: float) -> float:
        nonlocal left
        taken = min(max(0.0, seconds), left)
        left -= taken
        return taken

    load, usage = take(r.load), r.usage
    if usage is None:
        return TimeParts(load, other=left)
    is_cut = not usage.completion_tokens and r.reason not in ("stop", "length")
    if is_cut and usage.queue_seconds is None:
        return TimeParts(load, queue=left)
    queue = take(r.inbox + (usage.queue_seconds or 0.0))
    if is_cut:
        return TimeParts(load, queue, prefill=left)
    prefill, decode = take(usage.prompt_seconds), take(usage.predict_seconds)
    return TimeParts(load, queue, prefill, decode, left)


def why(r: FinishedRequest, parts: TimeParts, usual: float | None) -> str:
    """Return in a few words what took most of a slow request's time; "" if it was not slow.

    Args:
        r: the request.
        parts: the parts of its time.
        usual: median time of earlier requests in seconds; None if there were too few. Then only a request that waited
            for its model is slow.
    """
    part, usage = parts.longest, r.usage
    is_slow = part == "load" and parts.load > 0 if usual is None else r.total > SLOW * usual
    if not is_slow or r.reason == "refused":
        return ""
    if part == "load":
        return f"waited {_seconds(parts.load)} for the model to load"
    if part == "queue":
        behind = f" behind {_counted(r.n_ahead, 'request')}" if r.n_ahead else ""
        return f"waited {_seconds(parts.queue)} in the queue{behind}"
    if part == "prefill" and usage:
        n, cached = usage.prompt_tokens, usage.cached_tokens
        found = f"{cached:,}" if cached else "none"
        return f"read {n - cached:,} of {_counted(n, 'prompt token')}, {found} in the cache"
    if part == "decode" and usage:
        speed = usage.completion_tokens / parts.decode
        return f"generated {_counted(usage.completion_tokens, 'token')}, {speed:,.0f} a second"
    return f"{_seconds(parts.other)} for reading the request, its prompt and sending the answer"


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 0.1 else f"{seconds:.1f} s"


def _counted(n: int | None, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def usual_seconds(totals: Sequence[float]) -> float | None:
    """Return the median of the times of completed requests; None if there are fewer than ENOUGH."""
    return median(totals) if len(totals) >= ENOUGH else None


def request_times(r: FinishedRequest, usual: float | None) -> RequestTimes:
    """Return a request as `/status` shows it; for `usual` see `why`."""
    parts, usage = parts_of(r), r.usage or Usage(0, 0)
    return {
        "id": r.id,
        "time": r.time,
        "route": r.route,
        "client": r.client,
        "model": r.model,
        "status": r.status,
        "reason": r.reason,
        "is_low": r.is_low,
        "total": _ms(r.total),
        "load": _ms(parts.load),
        "queue": _ms(parts.queue),
        "prefill": _ms(parts.prefill),
        "decode": _ms(parts.decode),
        "other": _ms(parts.other),
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "drafted_tokens": usage.drafted_tokens,
        "accepted_tokens": usage.accepted_tokens,
        "why": why(r, parts, usual),
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
