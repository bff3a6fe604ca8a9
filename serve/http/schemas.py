"""JSON bodies → typed completions, one function a dialect. Knows nothing of Flask, threads or models.

Lenient where clients differ (unknown fields are ignored, null is absent, any model name is accepted),
strict where silence would mislead: a field of the wrong type is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve.http.fields import Fields
from serve.http.sampling_fields import read_logit_bias, read_sampling
from serve.request import StopRules
from serve.service import Completion
from serve.settings import Defaults
from turbopilot.errors import InvalidRequest

# One request may ask for this many texts. Source: OpenAI's limit on `n`.
MAX_CHOICES = 128
# Stands for "as many tokens as fit"; it is clamped to the context. Ollama's -1 and -2 mean that.
UNLIMITED = 2**31
# Log probabilities of so many tokens in each place. Source: OpenAI's chat limit; its completions' was 5.
MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class OpenAICall:
    """A body of `/v1/completions`."""

    completion: Completion
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class OllamaCall:
    """A body of Ollama's `/api/generate`; `model` is told back as it was given."""

    completion: Completion
    stream: bool
    model: str


@dataclass(frozen=True, slots=True)
class HuggingFaceCall:
    """A body of Hugging Face's text generation; `inputs` is repeated before the text where wanted."""

    completion: Completion
    inputs: str
    return_full_text: bool


def parse_openai(body: Fields, defaults: Defaults) -> OpenAICall:
    """OpenAI's legacy completions; `segments` (Tabby's form) may stand for prompt and suffix."""
    prompts = body.texts(
        "prompt", "a string or a list of strings (token ids are not understood: send the text)"
    )
    suffix = body.text("suffix")
    if not prompts and "segments" in body:
        segments = body.object("segments")
        prompts, suffix = (segments.text("prefix"),), segments.text("suffix")
    if not prompts:
        raise InvalidRequest("you must specify a prompt", param="prompt")
    n = body.integer("n", 1, least=1, most=MAX_CHOICES)
    if n * len(prompts) > MAX_CHOICES:
        raise InvalidRequest(f"n times prompts is more than {MAX_CHOICES}", param="n")
    completion = Completion(
        prompts=prompts,
        suffix=suffix,
        n=n,
        max_tokens=body.integer("max_tokens", defaults.max_tokens, least=0),
        stop=_stop(body, body.texts("stop")),
        sampling=read_sampling(body, defaults),
        logit_bias=read_logit_bias(body),
        n_logprobs=_n_logprobs(body),
        deadline=body.seconds("deadline_ms"),
        predict_time=body.seconds("t_max_predict_ms"),
    )
    usage = body.object("stream_options").flag("include_usage")
    return OpenAICall(completion, body.flag("stream"), usage)


def parse_huggingface(body: Fields, defaults: Defaults) -> HuggingFaceCall:
    """Hugging Face's text generation: `inputs`, `parameters`."""
    p = body.object("parameters")
    inputs = body.text("inputs")
    length = body.integer("max_tokens", defaults.max_tokens, least=0)
    completion = Completion(
        prompts=(inputs,),
        max_tokens=p.integer("max_new_tokens", length, least=0),
        stop=_stop(p, p.texts("stop") or p.texts("stop_sequences")),
        sampling=read_sampling(p, defaults),
        logit_bias=read_logit_bias(p),
        deadline=body.seconds("deadline_ms"),
        predict_time=p.seconds("t_max_predict_ms"),
    )
    return HuggingFaceCall(completion, inputs, p.flag("return_full_text"))


def parse_ollama(body: Fields, defaults: Defaults) -> OllamaCall:
    """Ollama's generate: `prompt`, `suffix`, `options`; it streams unless told not to."""
    o = body.object("options")
    num_predict = o.integer("num_predict", defaults.max_tokens)
    completion = Completion(
        prompts=(body.text("prompt"),),
        suffix=body.text("suffix"),
        max_tokens=num_predict if num_predict >= 0 else UNLIMITED,
        stop=_stop(o, o.texts("stop")),
        sampling=read_sampling(o, defaults, format_of=body),
        logit_bias=read_logit_bias(o),
        deadline=body.seconds("deadline_ms"),
        predict_time=o.seconds("t_max_predict_ms"),
    )
    return OllamaCall(completion, body.flag("stream", True), body.text("model"))


def _stop(fields: Fields, strings: tuple[str, ...]) -> StopRules:
    """The stop strings, llama.cpp's `n_indent` and our own `single_line`."""
    return StopRules(
        strings=strings,
        single_line=fields.flag("single_line"),
        n_indent=fields.integer("n_indent", 0, least=0),
    )


def _n_logprobs(body: Fields) -> int | None:
    """OpenAI's `logprobs`, a number; false, which some clients send, is none."""
    if body.raw("logprobs") in (None, False):
        return None
    return body.integer("logprobs", 0, least=0, most=MAX_LOGPROBS)
