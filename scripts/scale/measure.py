"""Step times of a running server, measured by its answers: requests alone and side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import median

from bench.client import Answer, complete, greedy

from scale.replica import StepTimes

TOKENS = 48  # of a stream that measures decoding
REPEATS = 5


def fit_prefill(short: tuple[int, float], long: tuple[int, float]) -> tuple[float, float]:
    """Return seconds for each prompt token, and besides them, of two prompts given as (tokens, seconds).

    >>> fit_prefill((100, 0.3), (300, 0.7))
    (0.002, 0.1)
    """
    token = max(0.0, (long[1] - short[1]) / (long[0] - short[0]))
    return round(token, 9), round(max(0.0, short[1] - short[0] * token), 9)


async def step_times(
    port: int, texts: Sequence[str], slots: int, cache_tokens: int
) -> tuple[StepTimes, float]:
    """Measure a server that does nothing else.

    Args:
        port: its port.
        texts: prompts that share nothing; at least 2 × REPEATS + slots.
        slots: requests that it computes at once.
        cache_tokens: what its prefix cache can hold.

    Returns:
        The times, and the characters per token of the prompts.
    """
    fresh = iter(texts)
    shorts = [await _one(port, _part(next(fresh), 4)) for _ in range(REPEATS)]
    longs = [await _one(port, next(fresh)) for _ in range(REPEATS)]
    token, base = fit_prefill(_median(shorts), _median(longs))
    # The server knows these answers: it only parses the request and sends the response.
    overhead = _median([await _one(port, _part(texts[i], 4)) for i in range(REPEATS)])[1]
    prompts = [_part(next(fresh), 8) for _ in range(slots)]
    decode = [await _decode(port, prompts[: n + 1]) for n in range(slots)]
    characters = sum(len(t) for t in texts[REPEATS : 2 * REPEATS])
    tokens = sum(a.n_prompt for a in longs)
    times = StepTimes(
        decode=tuple(decode),
        prefill_token=token,
        prefill=max(0.0, base - overhead),
        overhead=overhead,
        cache_tokens=cache_tokens,
    )
    return times, characters / tokens


def _part(text: str, of: int) -> str:
    return text[: len(text) // of]


def _median(answers: Sequence[Answer]) -> tuple[int, float]:
    return round(median(a.n_prompt for a in answers)), median(a.first for a in answers)


async def _one(port: int, prompt: str) -> Answer:
    return await complete(port, greedy(prompt, 1, stream=True))


async def _decode(port: int, prompts: Sequence[str]) -> float:
    """Return the seconds of a decode step with these sequences."""
    found = []
    for i in range(REPEATS):
        # Another ending each time: the server knows completions that it has given.
        asked = [greedy(f"{p}\n# {i} {len(prompts)}\n", TOKENS, stream=True) for p in prompts]
        answers = await asyncio.gather(*(complete(port, fields) for fields in asked))
        found += [(a.seconds - a.first) / (a.n_tokens - 1) for a in answers if a.n_tokens > 1]
    return median(found)
