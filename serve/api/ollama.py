"""Ollama's generate: `prompt`, `suffix`, `options`. Pure; knows no Flask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from serve.api.fields import Fields
from serve.api.prompt_fields import read_length, read_model, read_stop
from serve.api.rendering import Json
from serve.api.sampling_fields import read_logit_bias, read_sampling
from serve.models.service import Completion
from serve.request import Finished, PromptScored, TextDelta, Usage
from serve.runner.generation import Answer
from serve.settings import Defaults

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class OllamaCall:
    """A body; `model` is told back as it was given."""

    completion: Completion
    stream: bool
    model: str

    @property
    def only_loads(self) -> bool:
        """Ollama's clients load a model by an empty prompt."""
        return not any((*self.completion.prompts, self.completion.suffix))


def parse_ollama(body: Fields, defaults: Defaults) -> OllamaCall:
    """A body as Ollama documents it; it streams unless told not to.

    Raises:
        InvalidRequest: a field cannot be used.
    """
    o = body.object("options")
    completion = Completion(
        prompts=(body.text("prompt"),),
        suffix=body.text("suffix") or None,
        max_tokens=read_length(o, "num_predict", defaults.max_tokens),
        stop=read_stop(o),
        sampling=read_sampling(o, defaults, format_of=body),
        logit_bias=read_logit_bias(o),
        deadline=body.seconds("deadline_ms"),
        predict_time=o.seconds("t_max_predict_ms"),
    )
    return OllamaCall(completion, body.flag("stream", True), read_model(body))


class OllamaRendering:
    """The answer.

    Args:
        model: which model answers.
        truncated: whether something was given up so that it fits.
    """

    def __init__(self, model: str, *, truncated: bool) -> None:
        self._model, self._truncated = model, truncated

    def loaded(self) -> Json:
        """For a body that only loads the model."""
        return self._part("", {"done": True, "done_reason": "load"})

    def whole(self, answer: Answer) -> Json:
        """One object."""
        (choice,) = answer.choices
        return self._part(choice.text, self._end(choice.finish_reason, answer.usage))

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterator[Json]:
        """A line."""
        if isinstance(event, TextDelta):
            yield self._part(event.text, {"done": False})

    def end(self, index: int, event: Finished) -> Json:
        """The last line."""
        return self._part("", self._end(event.reason, event.usage))

    def last(self, usage: Usage) -> Iterator[Json]:
        """Nothing more."""
        yield from ()

    def _part(self, text: str, rest: Json) -> Json:
        now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
        return {"model": self._model, "created_at": now, "response": text, **rest}

    def _end(self, reason: str, usage: Usage) -> Json:
        seconds = usage.prompt_seconds + usage.predict_seconds
        return {
            "done": True,
            "done_reason": reason,
            "total_duration": int(NANO * seconds),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": int(NANO * usage.prompt_seconds),
            "eval_count": usage.completion_tokens,
            "eval_duration": int(NANO * usage.predict_seconds),
            "truncated": self._truncated,
        }
