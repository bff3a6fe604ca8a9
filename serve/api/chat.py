"""OpenAI's chat completions, and Mistral's fill-in-the-middle, whose responses have the same format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from serve.api import body
from serve.api.completions import OpenAiHead, OpenAiRendering, OpenAiRequest
from serve.api.dialect import ChunkEnds, Ends, Json
from serve.api.sampling import server_default
from serve.api.text_parts import Text, joined
from serve.api.timings import TimingsAnswer
from serve.api.tokens import DetailedLogprob, detailed_logprobs
from serve.api.usage import UsageAnswer
from serve.models.completion import Completion
from serve.models.service import CompletionService
from serve.prompt.chat_template import Message
from serve.request import ChosenToken, Finished, PromptScored, TextDelta
from serve.runner.generation import Choice
from serve.settings import Defaults


class ChatLogprobs(TypedDict):
    """Log probabilities of a message's tokens."""

    content: list[DetailedLogprob]


class AnswerMessage(TypedDict):
    """A message from the model."""

    role: Literal["assistant"]
    content: str


class ChatChoice(TypedDict):
    """One completion, as a message."""

    index: body.Count
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Ends


class ChatAnswer(OpenAiHead):
    """A response in one piece. `truncated`: whether the prompt or completion was cut to fit."""

    choices: list[ChatChoice]
    usage: UsageAnswer
    timings: TimingsAnswer
    truncated: bool


class MessageDelta(TypedDict, total=False):
    """Content of a chunk: the role in the first chunk of a choice, text in the others."""

    role: Literal["assistant"]
    content: str


class ChatDelta(TypedDict):
    """A part of one message."""

    index: body.Count
    delta: MessageDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChunkEnds


class ChatChunk(OpenAiHead):
    """A chunk of a stream. The last chunk of each choice has `truncated` and the choice's `timings`."""

    choices: list[ChatDelta]
    usage: NotRequired[UsageAnswer | None]
    timings: NotRequired[TimingsAnswer]
    truncated: NotRequired[bool]


class ChatMessage(body.Body):
    """A message of the conversation. The role "developer" is OpenAI's newer name for "system"."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text = ""

    def message(self) -> Message:
        """Return the message in the form that chat templates expect."""
        role = "system" if self.role == "developer" else self.role
        return Message(role, joined(self.content))


Messages = Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
_GREETING: Final[MessageDelta] = {"role": "assistant", "content": ""}


class ChatRendering(OpenAiRendering[OpenAiRequest]):
    """Renderer of chat completions."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self, request: OpenAiRequest, service: CompletionService, *, truncated: bool
    ) -> None:
        super().__init__(request, service, truncated=truncated)
        self._greeted: set[int] = set()

    def _choice(self, index: int, choice: Choice) -> ChatChoice:
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text},
            "logprobs": self._logprobs(index, choice.tokens, len(choice.text)),
            "finish_reason": choice.finish_reason,
        }

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterator[Json]:
        """Yield a chunk; the first text of a choice is preceded by a chunk with the role."""
        if not isinstance(event, TextDelta):
            return
        logprobs = self._logprobs(index, event.tokens, len(event.text))
        if event.text or (logprobs and logprobs["content"]):
            if index not in self._greeted:
                self._greeted.add(index)
                yield self._chunk(_delta(index, _GREETING, None))
            yield self._chunk(_delta(index, {"content": event.text}, logprobs), event.usage)

    def end(self, index: int, event: Finished) -> Json:
        """Return the last chunk of a choice, without text."""
        delta: MessageDelta = {} if index in self._greeted else _GREETING
        return self._last_chunk(_delta(index, delta, None, event.reason), event)

    def _logprobs(
        self, index: int, tokens: tuple[ChosenToken, ...], n_characters: int
    ) -> ChatLogprobs | None:
        if self._request.n_logprobs is None:
            return None
        return {"content": detailed_logprobs(self._place(index, tokens, n_characters))}


def _delta(
    index: int, delta: MessageDelta, logprobs: ChatLogprobs | None, reason: str | None = None
) -> ChatDelta:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


class ChatFields(OpenAiRequest):
    """Base of requests whose responses are chat completions."""

    rendering = ChatRendering
    answer = ChatAnswer
    chunk = ChatChunk


class ChatRequest(ChatFields):
    """OpenAI's chat completion."""

    example: ClassVar[dict[str, Any]] = {"messages": [{"role": "user", "content": "Say hello."}]}

    messages: Messages
    """The conversation. The model's chat template builds the prompt from it and may reject some orders of roles."""
    max_completion_tokens: body.Count | None = server_default("max_tokens")
    """Same as `max_tokens`, over which it takes precedence."""
    n: body.Choices = 1
    """Number of completions."""
    logprobs: bool = False
    """Return each token's log probability."""
    top_logprobs: body.TopLogprobs = 0
    """With `logprobs`: also return the log probabilities of this many most likely tokens."""

    @property
    def n_logprobs(self) -> int | None:
        """See `OpenAiRequest`."""
        return self.top_logprobs if self.logprobs else None

    def _asked(self, defaults: Defaults) -> Completion:
        """Return the completion without a prompt; `fitted` adds it."""
        length = body.first(self.max_completion_tokens, self.max_tokens, defaults.max_tokens)
        completion = self.common((), length, defaults)
        return replace(completion, n=self.n, n_logprobs=self.n_logprobs)

    def fitted(self, completion: Completion, service: CompletionService) -> Completion:
        """Return the completion with a prompt from the model's chat template."""
        prompt = service.chat_prompt([m.message() for m in self.messages])
        return replace(completion, prompts=(prompt,), heals=False)


class MistralFimRequest(ChatFields):
    """Mistral's fill-in-the-middle, as in Codestral's API."""

    example: ClassVar[dict[str, Any]] = {"prompt": "def add(", "suffix": "\n    return a + b\n"}

    prompt: str
    """Text before the cursor."""
    suffix: str = ""
    """Text after the cursor."""
    random_seed: body.Whole | None = None
    """Same as `seed`, over which it takes precedence."""

    def _asked(self, defaults: Defaults) -> Completion:
        length = body.first(self.max_tokens, defaults.max_tokens)
        completion = self.common((self.prompt,), length, defaults)
        seed = self.seed if self.random_seed is None else self.random_seed
        sampling = replace(completion.sampling, seed=seed)
        return replace(completion, suffix=self.suffix, sampling=sampling)
