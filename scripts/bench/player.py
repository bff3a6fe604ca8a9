"""Plays a typing trace against a server: the same requests, closed and sent at the times that were recorded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from bench.client import Answer, complete, greedy
from bench.trace import Trace


@dataclass(slots=True)
class Played:
    """How it went.

    Attributes:
        answers: of the requests that the person waited for.
        n_abandoned: closed before their answer was complete.
        n_early: were to be abandoned, but had been answered by then.
        seconds: the whole session.
        latest: the most that a request was sent after its time, in seconds: the player's own fault.
    """

    answers: list[Answer] = field(default_factory=list)
    n_abandoned: int = 0
    n_early: int = 0
    seconds: float = 0.0
    latest: float = 0.0


async def play(port: int, trace: Trace) -> Played:
    """Play it from the beginning to the end.

    Raises:
        BadAnswer: a request was refused.
    """
    played = Played()
    began = mark = time.perf_counter()  # what the next event's time counts from
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
        await asyncio.sleep(0)  # the loop closes the socket in its next round
        played.n_abandoned += 1
    played.seconds = time.perf_counter() - began
    return played


async def _until(moment: float) -> None:
    if (left := moment - time.perf_counter()) > 0:
        await asyncio.sleep(left)
