"""OpenAI's legacy completions: FauxPilot's engines and Tabby's agent speak the same. Pure; knows no Flask.

Lenient where clients differ (unknown fields are ignored, null is absent, any model name is accepted),
strict where silence would mislead: a field of the wrong type is refused by name.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from serve.api.fields import Fields
from serve.api.prompt_fields import (
    MAX_CHOICES,
    MAX_LOGPROBS,
    read_choices,
    read_model,
    read_prompts,
    read_stop,
)
from serve.api.rendering import Json
from serve.api.sampling_fields import read_logit_bias, read_sampling
from serve.api.tokens import PlacedTokens, legacy_logprobs
from serve.models.service import Completion
from serve.request import ChosenToken, Finished, PromptScored, TextDelta, Usage
from serve.runner.generation import Answer, Choice
from serve.settings import Defaults
from turbopilot.base.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class CompletionsCall:
    """A body of `/v1/completions`.

    Attributes:
        completion: what is asked for.
        model: the name that it is asked of; "" is any.
        stream: whether the answer comes as it is generated.
        include_usage: whether a stream ends with token counts.
        echo: whether the text begins with the prompt.
    """

    completion: Completion
    model: str
    stream: bool
    include_usage: bool
    echo: bool

    @property
    def needs_prompts(self) -> bool:
        """Whether the answer depends on the texts of the prompts."""
        return self.echo or self.completion.n_logprobs is not None


def parse_completions(body: Fields, defaults: Defaults) -> CompletionsCall:
    """A body as OpenAI documents it; `segments` (Tabby's form) may stand for prompt and suffix.

    Raises:
        InvalidRequest: a field cannot be used.
    """
    prompts, suffix = read_prompts(body), body.text("suffix")
    filename = ""
    if not prompts and "segments" in body:
        segments = body.object("segments")
        prompts, suffix = (segments.text("prefix"),), segments.text("suffix")
        filename = segments.text("filepath")
    if not prompts:
        raise InvalidRequest("you must specify a prompt", param="prompt")
    n = read_choices(body, "n", len(prompts))
    best_of = body.integer("best_of", n, least=n, most=MAX_CHOICES)
    stream, echo, n_logprobs = body.flag("stream"), body.flag("echo"), _n_logprobs(body)
    if stream and best_of > n:
        raise InvalidRequest(
            "which of them are the best is known at the end: there is no stream", param="best_of"
        )
    completion = Completion(
        prompts=prompts,
        suffix=suffix or None,
        filename=filename,
        n=n,
        best_of=best_of,
        max_tokens=body.integer("max_tokens", defaults.max_tokens, least=0),
        stop=read_stop(body),
        sampling=read_sampling(body, defaults),
        logit_bias=read_logit_bias(body),
        n_logprobs=n_logprobs,
        scores_prompt=echo and n_logprobs is not None,
        deadline=body.seconds("deadline_ms"),
        predict_time=body.seconds("t_max_predict_ms"),
    )
    usage = body.object("stream_options").flag("include_usage")
    return CompletionsCall(completion, read_model(body), stream, usage, echo)


def _n_logprobs(body: Fields) -> int | None:
    """OpenAI's `logprobs`, a number; false, which some clients send, is none."""
    if (value := body.raw("logprobs")) is None or value is False:
        return None
    return body.integer("logprobs", 0, least=0, most=MAX_LOGPROBS)


def usage_json(usage: Usage) -> dict[str, object]:
    """Token counts in OpenAI's form."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


class CompletionsRendering:
    """The answer.

    Args:
        call: what was asked.
        model: which model answers.
        prompts: the texts of the prompts, where the call needs them: they count for the places of tokens, and are
            told where wanted.
        truncated: whether something was given up so that it fits.
    """

    def __init__(
        self, call: CompletionsCall, model: str, prompts: tuple[str, ...], *, truncated: bool
    ) -> None:
        self._call, self._prompts, self._truncated = call, prompts, truncated
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._placed: dict[int, PlacedTokens] = {}
        self._echoed: set[int] = set()
        self._no_usage: Json = {"usage": None} if call.include_usage else {}

    def whole(self, answer: Answer) -> Json:
        """One object with all choices."""
        return {
            **self._head,
            "choices": [self._whole_choice(i, c) for i, c in enumerate(answer.choices)],
            "usage": usage_json(answer.usage),
            "truncated": self._truncated,
        }

    def _whole_choice(self, index: int, choice: Choice) -> Json:
        text = self._prompt(index) + choice.text if self._call.echo else choice.text
        logprobs = self._logprobs(index, (*choice.prompt_tokens, *choice.tokens), len(text))
        return _choice(index, text, logprobs, choice.finish_reason)

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterator[Json]:
        """A chunk, unless nothing of the text is certain yet."""
        text, tokens = "", event.tokens
        if isinstance(event, TextDelta):
            text = self._echo(index) + event.text
        logprobs = self._logprobs(index, tokens, len(text))
        if text or (logprobs and logprobs["tokens"]):
            yield self._chunk(_choice(index, text, logprobs, None))

    def end(self, index: int, event: Finished) -> Json:
        """A chunk without text; with the prompt's where nothing was generated."""
        text = self._echo(index)
        logprobs = self._logprobs(index, (), len(text)) if text else None
        return {
            **self._chunk(_choice(index, text, logprobs, event.reason)),
            "truncated": self._truncated,
        }

    def last(self, usage: Usage) -> Iterator[Json]:
        """A chunk with the token counts, where they are wanted."""
        if self._call.include_usage:
            yield {**self._head, "choices": [], "usage": usage_json(usage)}

    def _chunk(self, choice: Json) -> dict[str, object]:
        return {**self._head, "choices": [choice], **self._no_usage}

    def _prompt(self, index: int) -> str:
        return self._prompts[index // self._call.completion.n]

    def _echo(self, index: int) -> str:
        """The prompt, once."""
        if not self._call.echo or index in self._echoed:
            return ""
        self._echoed.add(index)
        return self._prompt(index)

    def _logprobs(
        self, index: int, tokens: Iterable[ChosenToken], n_characters: int
    ) -> dict[str, object] | None:
        n = self._call.completion.n_logprobs
        if n is None:
            return None
        if index not in self._placed:
            # As OpenAI has it: places count from the beginning of the prompt, told or not.
            self._placed[index] = PlacedTokens(0 if self._call.echo else len(self._prompt(index)))
        return legacy_logprobs(self._placed[index].feed(tokens, n_characters), n)


def _choice(index: int, text: str, logprobs: Json | None, finish_reason: str | None) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
