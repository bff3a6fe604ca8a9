"""Speed of a completion in llama.cpp's format, which all routes of llama.cpp and OpenAI return as `timings`.

llama-swap, Open WebUI and llama.cpp's own web page show it; llama.vim and llama.vscode show that of `/infill`.

Source: `server_slot_stats` in llama.cpp's tools/server/server-common.cpp and server-common.h.
"""

from __future__ import annotations

from dataclasses import replace

from typing_extensions import NotRequired, TypedDict

from serve.api.body import Count, Positive
from serve.api.dialect import Dialect
from serve.models.completion import Completion
from serve.request import Usage
from serve.settings import Defaults


class TimingsAnswer(TypedDict):
    """Durations in milliseconds, numbers of tokens, and tokens per second.

    `prompt_n` counts the prompt's computed tokens, `cache_n` those that were in the KV cache. `predicted_ms` begins
    with the first token, so the speed of decoding does not count it.
    """

    cache_n: Count
    prompt_n: Count
    prompt_ms: Positive
    prompt_per_token_ms: Positive
    prompt_per_second: Positive
    predicted_n: Count
    predicted_ms: Positive
    predicted_per_token_ms: Positive
    predicted_per_second: Positive
    draft_n: NotRequired[Count]
    draft_n_accepted: NotRequired[Count]


class TimedDialect(Dialect):
    """A request whose response has timings."""

    timings_per_token: bool = False
    """Return `timings` in each chunk of a stream, not only in the last one of a choice."""

    def completion(self, defaults: Defaults) -> Completion:
        """See `Dialect`."""
        reports_usage = self.stream and self.timings_per_token
        return replace(super().completion(defaults), reports_usage=reports_usage)


def timings(usage: Usage) -> TimingsAnswer:
    """Return the timings of a completion."""
    prompt_n, prompt_ms = usage.prompt_tokens - usage.cached_tokens, 1000 * usage.prompt_seconds
    predicted_ms = 1000 * usage.predict_seconds
    n_steps = max(0, usage.completion_tokens - 1)  # the prompt's computation gives the first token
    found: TimingsAnswer = {
        "cache_n": usage.cached_tokens,
        "prompt_n": prompt_n,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / prompt_n if prompt_n else 0.0,
        "prompt_per_second": 1000 * prompt_n / prompt_ms if prompt_ms else 0.0,
        "predicted_n": usage.completion_tokens,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / n_steps if n_steps else 0.0,
        "predicted_per_second": 1000 * n_steps / predicted_ms if predicted_ms else 0.0,
    }
    if usage.drafted_tokens:
        found |= {"draft_n": usage.drafted_tokens, "draft_n_accepted": usage.accepted_tokens}
    return found
