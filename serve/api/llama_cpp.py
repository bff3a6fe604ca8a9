"""llama.cpp's own routes, `/completion` and `/infill`, which llama.vim and llama.vscode speak. Pure; knows no Flask.

Source: llama.cpp's tools/server/README.md, and what its server answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serve.api.fields import Fields
from serve.api.prompt_fields import (
    MAX_LOGPROBS,
    read_choices,
    read_files,
    read_length,
    read_model,
    read_prompts,
    read_stop,
)
from serve.api.rendering import Json
from serve.api.sampling_fields import read_logit_bias, read_sampling
from serve.api.tokens import PlacedTokens, detailed_logprobs
from serve.models.service import Completion
from serve.prompt.fim import ContextFile, PromptText
from serve.request import ChosenToken, Finished, PromptScored, TextDelta, Usage
from serve.runner.generation import Answer, Choice
from serve.settings import Defaults
from turbopilot.base.errors import InvalidRequest

STOP_TYPES = {"length": "limit", "stop": "eos"}  # "word" where a stop string ended it


@dataclass(frozen=True, slots=True)
class LlamaCppCall:
    """A body of `/completion` or `/infill`.

    Attributes:
        completion: what is asked for.
        model: the name that it is asked of; "" is any.
        stream: whether the answer comes as it is generated.
        fields: all that is wanted of the answer, nested ones as "timings/prompt_n"; nothing is everything.
    """

    completion: Completion
    model: str
    stream: bool
    fields: tuple[str, ...]


def parse_completion(body: Fields, defaults: Defaults) -> LlamaCppCall:
    """`prompt`, which is continued.

    Raises:
        InvalidRequest: a field cannot be used.
    """
    prompts = read_prompts(body)
    if not prompts:
        raise InvalidRequest("you must specify a prompt", param="prompt")
    return _call(body, defaults, prompts)


def parse_infill(body: Fields, defaults: Defaults) -> LlamaCppCall:
    """`input_prefix` and `input_suffix`; `prompt` is what is typed already of the line between them.

    A body without both, as Twinny sends it, holds a prompt that the client has framed itself.

    Raises:
        InvalidRequest: a field cannot be used.
    """
    prompt = body.text("prompt")
    if "input_prefix" not in body and "input_suffix" not in body:
        if not prompt:
            raise InvalidRequest(
                "you must specify input_prefix or input_suffix", param="input_prefix"
            )
        return _call(body, defaults, (prompt,))
    files = read_files(body, "input_extra", "filename", "text")
    prompts = (body.text("input_prefix") + prompt,)
    return _call(body, defaults, prompts, body.text("input_suffix"), files)


def _call(
    body: Fields,
    defaults: Defaults,
    prompts: tuple[PromptText, ...],
    suffix: str | None = None,
    files: tuple[ContextFile, ...] = (),
) -> LlamaCppCall:
    n = read_choices(body, "n_cmpl" if "n_cmpl" in body else "n", len(prompts))
    length = "n_predict" if "n_predict" in body else "max_tokens"
    n_probs = body.integer("n_probs", 0, least=0, most=MAX_LOGPROBS)
    completion = Completion(
        prompts=prompts,
        suffix=suffix,
        files=files,
        n=n,
        max_tokens=read_length(body, length, defaults.max_tokens),
        stop=read_stop(body),
        sampling=read_sampling(body, defaults),
        logit_bias=read_logit_bias(body),
        n_logprobs=n_probs or None,
        deadline=body.seconds("deadline_ms"),
        predict_time=body.seconds("t_max_predict_ms"),
    )
    fields = body.texts("response_fields", "a list of the names of fields")
    return LlamaCppCall(completion, read_model(body), body.flag("stream"), fields)


class LlamaCppRendering:
    """The answer: an object a choice, in a list where there are several.

    Args:
        call: what was asked.
        model: which model answers.
        truncated: whether something was given up so that it fits.
    """

    def __init__(self, call: LlamaCppCall, model: str, *, truncated: bool) -> None:
        self._call, self._model, self._truncated = call, model, truncated
        self._placed: dict[int, PlacedTokens] = {}
        self._stopped: dict[int, Json] = {}

    def whole(self, answer: Answer) -> Json | list[Json]:
        """One object, or a list."""
        found = [self._whole_choice(i, c) for i, c in enumerate(answer.choices)]
        return found[0] if len(found) == 1 else found

    def _whole_choice(self, index: int, c: Choice) -> Json:
        end = self._end(index, c.text, c.finish_reason, c.stop_string, c.usage)
        if self._call.completion.n_logprobs:
            end["completion_probabilities"] = self._probabilities(index, c.tokens, len(c.text))
        return self._picked(end)

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterator[Json]:
        """A chunk, unless nothing of the text is certain yet."""
        if not isinstance(event, TextDelta):
            return
        chunk: dict[str, object] = {"index": index, "content": event.text, "stop": False}
        if self._call.completion.n_logprobs:
            probabilities = self._probabilities(index, event.tokens, len(event.text))
            if not probabilities and not event.text:
                return
            chunk["completion_probabilities"] = probabilities
        yield chunk

    def end(self, index: int, event: Finished) -> Json:
        """All but the text, which has been told."""
        return self._picked(self._end(index, "", event.reason, event.stop_string, event.usage))

    def last(self, usage: Usage) -> Iterator[Json]:
        """Nothing more."""
        yield from ()

    def _probabilities(
        self, index: int, tokens: tuple[ChosenToken, ...], n_characters: int
    ) -> list[dict[str, object]]:
        placed = self._placed.setdefault(index, PlacedTokens())
        return detailed_logprobs(placed.feed(tokens, n_characters), ids=True)

    def _end(
        self, index: int, text: str, reason: str, stop_string: str, usage: Usage
    ) -> dict[str, object]:
        return {
            "index": index,
            "content": text,
            "stop": True,
            "stop_type": "word" if stop_string else STOP_TYPES.get(reason, "none"),
            "stopping_word": stop_string,
            "model": self._model,
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "tokens_cached": usage.prompt_tokens + usage.completion_tokens,
            "truncated": self._truncated,
            "timings": timings(usage),
        }

    def _picked(self, found: dict[str, object]) -> Json:
        """What is wanted of it; "timings/prompt_n" is told under that name."""
        if not self._call.fields:
            return found
        picked = {}
        for path in self._call.fields:
            value: object = found
            for key in path.split("/"):
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                picked[path] = value
        return picked


def timings(usage: Usage) -> dict[str, object]:
    """How long it took, as llama.cpp tells it: milliseconds."""
    prompt_n = usage.prompt_tokens - usage.cached_tokens
    told: dict[str, object] = {"cache_n": usage.cached_tokens}
    for name, n, seconds in (
        ("prompt", prompt_n, usage.prompt_seconds),
        ("predicted", usage.completion_tokens, usage.predict_seconds),
    ):
        told[f"{name}_n"] = n
        told[f"{name}_ms"] = 1000 * seconds
        told[f"{name}_per_token_ms"] = 1000 * seconds / n if n else 0.0
        told[f"{name}_per_second"] = n / seconds if seconds else 0.0
    if usage.drafted_tokens:
        told |= {"draft_n": usage.drafted_tokens, "draft_n_accepted": usage.accepted_tokens}
    return told
