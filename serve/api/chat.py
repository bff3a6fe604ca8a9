"""OpenAI's chat completions, and Mistral's fill-in-the-middle, answered in their form. Pure; knows no Flask."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from serve.api.completions import usage_json
from serve.api.fields import Fields
from serve.api.prompt_fields import MAX_LOGPROBS, read_choices, read_model, read_stop
from serve.api.rendering import Json
from serve.api.sampling_fields import read_logit_bias, read_sampling
from serve.api.tokens import PlacedTokens, detailed_logprobs
from serve.models.service import Completion
from serve.prompt.chat_template import Message
from serve.request import ChosenToken, Finished, PromptScored, TextDelta, Usage
from serve.runner.generation import Answer, Choice
from serve.settings import Defaults
from turbopilot.base.errors import InvalidRequest

# Roles of the messages that templates know; "developer" is OpenAI's newer name of "system".
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A body of `/v1/chat/completions` or `/v1/fim/completions`.

    Attributes:
        completion: what is asked for.
        model: the name that it is asked of; "" is any.
        stream: whether the answer comes as it is generated.
        include_usage: whether a stream ends with token counts.
    """

    completion: Completion
    model: str
    stream: bool
    include_usage: bool


def read_messages(body: Fields) -> tuple[Message, ...]:
    """`messages`, each with a role and a text, or a list of parts of text.

    Raises:
        InvalidRequest: there is none, or one cannot be understood.
    """
    value = body.raw("messages")
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        body.fail("messages", "a list of messages with role and content")
    return tuple(_message(Fields(v, f"messages[{i}].")) for i, v in enumerate(value))


def _message(f: Fields) -> Message:
    role = f.text("role")
    if role not in ROLES:
        f.fail("role", "one of " + ", ".join(ROLES))
    content = f.raw("content")
    if isinstance(content, list):
        parts = [Fields(p) if isinstance(p, dict) else f.fail("content", "text") for p in content]
        if any(p.text("type") != "text" for p in parts):
            f.fail("content", "text: there are no eyes and ears here")
        return Message(ROLES[role], "".join(p.text("text") for p in parts))
    return Message(ROLES[role], f.text("content"))


def parse_chat(
    body: Fields, defaults: Defaults, template: Callable[[Sequence[Message]], str]
) -> ChatCall:
    """A body as OpenAI documents it.

    Args:
        body: it.
        defaults: for what it does not say.
        template: from messages to a prompt, as the model was trained to read them.

    Raises:
        InvalidRequest: a field cannot be used.
    """
    prompt = template(read_messages(body))
    n = read_choices(body, "n", 1)
    length = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    wants = body.flag("logprobs")
    completion = Completion(
        prompts=(prompt,),
        n=n,
        max_tokens=body.integer(length, defaults.max_tokens, least=0),
        stop=read_stop(body),
        sampling=read_sampling(body, defaults),
        logit_bias=read_logit_bias(body),
        n_logprobs=body.integer("top_logprobs", 0, least=0, most=MAX_LOGPROBS) if wants else None,
        deadline=body.seconds("deadline_ms"),
    )
    return _call(body, completion)


def parse_mistral_fim(body: Fields, defaults: Defaults) -> ChatCall:
    """A body as Mistral documents its `/v1/fim/completions`.

    Raises:
        InvalidRequest: a field cannot be used.
    """
    if "prompt" not in body:
        raise InvalidRequest("you must specify a prompt", param="prompt")
    completion = Completion(
        prompts=(body.text("prompt"),),
        suffix=body.text("suffix"),
        max_tokens=body.integer("max_tokens", defaults.max_tokens, least=0),
        stop=read_stop(body),
        sampling=read_sampling(body, defaults, seed="random_seed"),
        deadline=body.seconds("deadline_ms"),
    )
    return _call(body, completion)


def _call(body: Fields, completion: Completion) -> ChatCall:
    usage = body.object("stream_options").flag("include_usage")
    return ChatCall(completion, read_model(body), body.flag("stream"), usage)


class ChatRendering:
    """The answer.

    Args:
        call: what was asked.
        model: which model answers.
        truncated: whether something was given up so that it fits.
    """

    def __init__(self, call: ChatCall, model: str, *, truncated: bool) -> None:
        self._call, self._truncated = call, truncated
        self._id, self._created, self._model = (
            f"chatcmpl-{uuid.uuid4().hex}",
            int(time.time()),
            model,
        )
        self._placed: dict[int, PlacedTokens] = {}
        self._greeted: set[int] = set()
        self._no_usage: Json = {"usage": None} if call.include_usage else {}

    def whole(self, answer: Answer) -> Json:
        """One object with all choices."""
        return {
            **self._head("chat.completion"),
            "choices": [self._whole_choice(i, c) for i, c in enumerate(answer.choices)],
            "usage": usage_json(answer.usage),
            "truncated": self._truncated,
        }

    def _whole_choice(self, index: int, c: Choice) -> Json:
        return {
            "index": index,
            "message": {"role": "assistant", "content": c.text},
            "logprobs": self._logprobs(index, c.tokens, len(c.text)),
            "finish_reason": c.finish_reason,
        }

    def part(self, index: int, event: TextDelta | PromptScored) -> Iterator[Json]:
        """A chunk; before a choice's first the role."""
        if not isinstance(event, TextDelta):
            return
        logprobs = self._logprobs(index, event.tokens, len(event.text))
        if event.text or (logprobs and logprobs["content"]):
            yield from self._greeting(index)
            yield self._chunk(index, {"content": event.text}, logprobs, None)

    def end(self, index: int, event: Finished) -> Json:
        """A chunk without text."""
        delta = {} if index in self._greeted else {"role": "assistant", "content": ""}
        return {**self._chunk(index, delta, None, event.reason), "truncated": self._truncated}

    def last(self, usage: Usage) -> Iterator[Json]:
        """A chunk with the token counts, where they are wanted."""
        if self._call.include_usage:
            yield {**self._head("chat.completion.chunk"), "choices": [], "usage": usage_json(usage)}

    def _greeting(self, index: int) -> Iterator[Json]:
        if index not in self._greeted:
            self._greeted.add(index)
            yield self._chunk(index, {"role": "assistant", "content": ""}, None, None)

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _chunk(
        self, index: int, delta: Json, logprobs: Json | None, finish_reason: str | None
    ) -> dict[str, object]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return {**self._head("chat.completion.chunk"), "choices": [choice], **self._no_usage}

    def _logprobs(
        self, index: int, tokens: tuple[ChosenToken, ...], n_characters: int
    ) -> dict[str, object] | None:
        if self._call.completion.n_logprobs is None:
            return None
        placed = self._placed.setdefault(index, PlacedTokens())
        return {"content": detailed_logprobs(placed.feed(tokens, n_characters))}
