"""A client's request for completions of one or more prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve.prompt.context_file import ContextFile
from serve.prompt.fim import PromptText
from serve.request import SamplingParams, StopRules


@dataclass(frozen=True, slots=True)
class Completion:
    """A client's request for completions, independent of the API dialect.

    Attributes:
        prompts: prompts; each is continued separately.
        max_tokens: maximum tokens of each choice; 0 only fills the KV cache.
        suffix: text after the cursor; None for a plain continuation.
        files: other files for the prompt, the most important last.
        filename: name of the edited file; "" if unknown.
        n: number of choices for each prompt.
        best_of: number of texts generated for each prompt; the `n` most likely are the choices. At least `n` are
            generated.
        stop: `follows`, `loops` and `line` are ignored; they are set from the prompt and the server's options.
        heals: whether the completion may re-spell the end of a prompt that is a text.
        respells: tokens after a prompt of token ids that the completion re-spells.
        ends_loops: whether a completion that repeats itself ends, if the server ends such.
        sampling: `logit_bias` in it is ignored; see below.
        logit_bias: (token id or text, amount added to the logits of its tokens) pairs.
        n_logprobs, scores_prompt, predict_time, reports_usage: see `GenerationRequest`.
        deadline: time limit in seconds, if it is shorter than the server's; None means the server's.
        prediction: text that the completion is expected to repeat; only a source of draft tokens.
        session: see `GenerationRequest.supersedes`.
        lora: scales of LoRA adapters by index; see `AdapterScales.chosen`.
        is_low: see `GenerationRequest`.
    """

    prompts: tuple[PromptText, ...]
    max_tokens: int
    suffix: str | None = None
    files: tuple[ContextFile, ...] = ()
    filename: str = ""
    n: int = 1
    best_of: int = 1
    stop: StopRules = field(default_factory=StopRules)
    heals: bool = True
    respells: tuple[int, ...] = ()
    ends_loops: bool = True
    sampling: SamplingParams = field(default_factory=SamplingParams)
    logit_bias: tuple[tuple[int | str, float], ...] = ()
    n_logprobs: int | None = None
    scores_prompt: bool = False
    deadline: float | None = None
    predict_time: float | None = None
    reports_usage: bool = False
    prediction: str = ""
    session: str = ""
    lora: Mapping[int, float] | None = None
    is_low: bool = False
