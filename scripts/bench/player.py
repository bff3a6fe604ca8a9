"""Replay of a typing trace against a server: requests are sent and closed at the recorded times."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from bench.client import Answer, complete, greedy
from bench.trace import Trace


@dataclass(slots=True)
class Played:
    """Results of one replay.

    Attributes:
        answers: completions of the requests that the person waited for.
        n_abandoned: requests closed before their completion was complete.
        n_early: requests to be abandoned whose completion arrived before that.
        seconds: duration of the whole session.
        latest: largest delay of a request after its due time, in seconds; the player causes it, not the server.
    """

    answers: list[Answer] = field(default_factory=list)
    n_abandoned: int = 0
    n_early: int = 0
    seconds: float = 0.0
    latest: float = 0.0


async def play(port: int, trace: Trace) -> Played:
    """Replay a trace from beginning to end.

    Raises:
        BadAnswer: the response to a request is not a completion.
    """
    played = Played()
    began = mark = time.perf_counter()  # start of the next event's delay
    for event, prompt in zip(trace.events, trace.prompts(), strict=True):
        due = mark + event.after / 1000
        await _until(due)
        played.latest = max(played.latest, time.perf_counter() - due)
        request = asyncio.create_task(complete(port, greedy(prompt, trace.max_tokens, stream=True)))
        if event.close is None:
            played.answers.append(await request)
            mark = time.perf_counter()
            continue
        mark = due
        await _until(due + event.close / 1000)
        if request.done():
            request.result()
            played.n_early += 1
            continue
        request.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await request
        await asyncio.sleep(0)  # the event loop closes the socket in its next iteration
        played.n_abandoned += 1
    played.seconds = time.perf_counter() - began
    return played


async def _until(moment: float) -> None:
    if (left := moment - time.perf_counter()) > 0:
        await asyncio.sleep(left)
