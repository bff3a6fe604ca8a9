"""Hugging Face's text generation, as its text-generation-inference (TGI) serves it.

Source: router/src/server.rs of text-generation-inference, and `InferenceClient` in huggingface_hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, RootModel
from typing_extensions import NotRequired, TypedDict

from serve.api import body
from serve.api.dialect import SSE_WITHOUT_DONE, Dialect, Json, Rendering
from serve.api.sampling import SamplingFields, server_default
from serve.api.tokens import TokenTexts, logprob_number
from serve.models.completion import Completion
from serve.models.service import CompletionService
from serve.request import ChosenToken, Finished, PromptScored, TextDelta
from serve.runner.generation import Answer, Choice
from serve.settings import Defaults

_REASONS: Final = ("length", "eos_token", "stop_sequence", "cancelled")


class GeneratedToken(TypedDict):
    """A token. The texts of all tokens together are the completion; a `special` token has no text.

    `logprob` is null for the end-of-sequence token that stands for a completion without tokens.
    """

    id: body.Count
    text: str
    logprob: float | None
    special: bool


class GenerationEnd(TypedDict):
    """The end of a completion: at `max_new_tokens`, at an end-of-generation token or at a stop string.

    "cancelled" occurs only in a stream: a newer request of the same session ended it.
    """

    finish_reason: Annotated[str, Field(json_schema_extra={"enum": list(_REASONS)})]
    generated_tokens: body.Count
    seed: int | None


class StreamDetails(GenerationEnd):
    """Details in the last chunk of a stream. `input_length` is the number of the prompt's tokens."""

    input_length: body.Count


class GenerationDetails(GenerationEnd):
    """Details of a whole response. `prefill` is always empty."""

    prefill: list[GeneratedToken]
    tokens: list[GeneratedToken]


class HuggingFaceAnswer(TypedDict):
    """The completion. `truncated`: whether the prompt or completion was cut to fit."""

    generated_text: str
    details: NotRequired[GenerationDetails]
    truncated: bool


class HuggingFaceAnswers(RootModel[list[HuggingFaceAnswer]]):
    """A list with one completion."""


class HuggingFaceChunk(TypedDict):
    """A token of a stream. `index` counts from 1; the last chunk has the whole text and the details."""

    index: body.Count
    token: GeneratedToken
    generated_text: str | None
    details: StreamDetails | None


class HuggingFaceRendering(Rendering["HuggingFaceRequest"]):
    """Renderer of the response: one object, or a chunk for each token."""

    def __init__(
        self, request: HuggingFaceRequest, service: CompletionService, *, truncated: bool
    ) -> None:
        super().__init__(request, service, truncated=truncated)
        self._end_token = service.end_token
        self._before = request.inputs if request.parameters.return_full_text else ""
        self._texts = TokenTexts()
        self._index = 0

    def whole(self, answer: Answer) -> Json | list[Json]:
        """Return the response in one object."""
        (choice,) = answer.choices
        return self._answer(choice)

    def _answer(self, choice: Choice) -> HuggingFaceAnswer:
        found: HuggingFaceAnswer = {
            "generated_text": self._before + choice.text,
            "truncated": self._truncated,
        }
        if self._request.parameters.details:
            tokens = [*self._texts.feed(choice.text, choice.tokens), *self._texts.last()]
            found["details"] = {
                **self._end(
                    choice.finish_reason, choice.stop_string, choice.usage.completion_tokens
                ),
                "prefill": [],
                "tokens": [_token(*t) for t in tokens],
            }
        return found

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterator[Json]:
        """Yield a chunk for each token that is final, except the last, which ends the stream."""
        if isinstance(event, TextDelta):
            for token in self._texts.feed(event.text, event.tokens):
                yield self._chunk(_token(*token))

    def end(self, index: int, event: Finished) -> Json:
        """Return the chunk of the last token, with the whole text."""
        last = self._texts.last()
        empty: GeneratedToken = {
            "id": self._end_token, "text": "", "logprob": None, "special": True,
        }  # fmt: skip
        n_tokens = event.usage.completion_tokens
        details: StreamDetails = {
            **self._end(event.reason, event.stop_string, n_tokens),
            "input_length": event.usage.prompt_tokens,
        }
        text = self._before + self._texts.text
        return {
            **self._chunk(_token(*last[0]) if last else empty),
            "generated_text": text,
            "details": details,
        }

    def _chunk(self, token: GeneratedToken) -> HuggingFaceChunk:
        self._index += 1
        return {"index": self._index, "token": token, "generated_text": None, "details": None}

    def _end(self, reason: str, stop_string: str, n_tokens: int) -> GenerationEnd:
        if reason == "stop":
            reason = "stop_sequence" if stop_string else "eos_token"
        seed = self._request.parameters.seed
        return {"finish_reason": reason, "generated_tokens": n_tokens, "seed": seed}


def _token(chosen: ChosenToken, text: str) -> GeneratedToken:
    return {
        "id": chosen.token.id,
        "text": text,
        "logprob": logprob_number(chosen.token),
        "special": not chosen.token.data,
    }


class HuggingFaceListRendering(HuggingFaceRendering):
    """Renderer of a response as a list, as the former Inference API did."""

    def whole(self, answer: Answer) -> Json | list[Json]:
        """Return a list with the response."""
        (choice,) = answer.choices
        return [self._answer(choice)]


class HuggingFaceParameters(SamplingFields):
    """Parameters of the completion."""

    max_new_tokens: body.Count | None = None
    """Maximum tokens to generate; takes precedence over the body's `max_tokens`."""
    stop_sequences: body.Stops = Field(default=[])
    """Same as `stop`; used if `stop` is empty."""
    return_full_text: bool = False
    """Begin the text with `inputs`."""
    details: bool = False
    """Return the tokens with their log probabilities, and why the text ended. A stream always has them."""


class HuggingFaceRequest(Dialect):
    """Hugging Face's text generation."""

    key = "inputs"
    example: ClassVar[dict[str, Any]] = {"inputs": "x = ", "parameters": {"max_new_tokens": 16}}
    framing = SSE_WITHOUT_DONE
    rendering = HuggingFaceRendering
    answer: ClassVar[Any] = HuggingFaceAnswer
    chunk = HuggingFaceChunk

    inputs: str
    """Text to complete."""
    max_tokens: body.Count | None = server_default("max_tokens")
    """Maximum tokens to generate."""
    parameters: HuggingFaceParameters = Field(default_factory=HuggingFaceParameters)

    def _asked(self, defaults: Defaults) -> Completion:
        p = self.parameters
        length = body.first(p.max_new_tokens, self.max_tokens, defaults.max_tokens)
        completion = p.common((self.inputs,), length, defaults)
        stop = replace(completion.stop, strings=body.as_tuple(p.stop or p.stop_sequences))
        n_logprobs = 0 if self.stream or p.details else None
        return replace(completion, stop=stop, n_logprobs=n_logprobs)


class HuggingFaceStreamRequest(HuggingFaceRequest):
    """Hugging Face's text generation, streamed by default."""

    stream: bool = True
    """Send the text as it is generated."""


class HuggingFaceListRequest(HuggingFaceRequest):
    """Hugging Face's text generation, with a list as its whole response."""

    rendering = HuggingFaceListRendering
    answer = HuggingFaceAnswers
