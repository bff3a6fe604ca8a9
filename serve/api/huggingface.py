"""Hugging Face's text generation: `inputs`, `parameters`. Pure; knows no Flask."""

from __future__ import annotations

from dataclasses import dataclass

from serve.api.fields import Fields
from serve.api.prompt_fields import read_stop
from serve.api.rendering import Json
from serve.api.sampling_fields import read_logit_bias, read_sampling
from serve.models.service import Completion
from serve.runner.generation import Answer
from serve.settings import Defaults


@dataclass(frozen=True, slots=True)
class HuggingFaceCall:
    """A body; `inputs` is repeated before the text where wanted."""

    completion: Completion
    inputs: str
    return_full_text: bool


def parse_huggingface(body: Fields, defaults: Defaults) -> HuggingFaceCall:
    """A body as its clients send it, `max_tokens` beside the parameters included.

    Raises:
        InvalidRequest: a field cannot be used.
    """
    p = body.object("parameters")
    inputs = body.text("inputs")
    length = body.integer("max_tokens", defaults.max_tokens, least=0)
    completion = Completion(
        prompts=(inputs,),
        max_tokens=p.integer("max_new_tokens", length, least=0),
        stop=read_stop(p, strings=p.texts("stop") or p.texts("stop_sequences")),
        sampling=read_sampling(p, defaults),
        logit_bias=read_logit_bias(p),
        deadline=body.seconds("deadline_ms"),
        predict_time=p.seconds("t_max_predict_ms"),
    )
    return HuggingFaceCall(completion, inputs, p.flag("return_full_text"))


class HuggingFaceRendering:
    """The answer; nobody asks for it in parts.

    Args:
        call: what was asked.
        truncated: whether something was given up so that it fits.
    """

    def __init__(self, call: HuggingFaceCall, *, truncated: bool) -> None:
        self._call, self._truncated = call, truncated

    def whole(self, answer: Answer) -> Json:
        """One object."""
        (choice,) = answer.choices
        text = self._call.inputs + choice.text if self._call.return_full_text else choice.text
        return {"generated_text": text, "truncated": self._truncated}
