"""Token counts in OpenAI's format."""

from __future__ import annotations

from typing_extensions import TypedDict

from serve.api.body import Count
from serve.request import Usage


class CachedTokens(TypedDict):
    """Details of a prompt's token count."""

    cached_tokens: Count


class UsageAnswer(TypedDict):
    """Token counts. A prompt with several choices is counted once."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: CachedTokens


def usage_json(usage: Usage) -> UsageAnswer:
    """Return token counts in OpenAI's format."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
