"""Token counts in OpenAI's format."""

from __future__ import annotations

from typing_extensions import NotRequired, TypedDict

from serve.api import body
from serve.request import Usage


class CachedTokens(TypedDict):
    """Details of a prompt's token count."""

    cached_tokens: body.Count


class PredictedTokens(TypedDict):
    """Details of a completion's token count: tokens drafted from `prediction`, by whether the model chose them."""

    accepted_prediction_tokens: body.Count
    rejected_prediction_tokens: body.Count


class UsageAnswer(TypedDict):
    """Token counts. A prompt with several choices is counted once. A request with `prediction` gets its details."""

    prompt_tokens: body.Count
    completion_tokens: body.Count
    total_tokens: body.Count
    prompt_tokens_details: CachedTokens
    completion_tokens_details: NotRequired[PredictedTokens]


def usage_json(usage: Usage, *, has_prediction: bool) -> UsageAnswer:
    """Return token counts in OpenAI's format."""
    answer: UsageAnswer = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    if has_prediction:
        answer["completion_tokens_details"] = {
            "accepted_prediction_tokens": usage.confirmed_tokens,
            "rejected_prediction_tokens": usage.predicted_tokens - usage.confirmed_tokens,
        }
    return answer
