"""Reader that validates responses with the types of OpenAI's Python library.

OpenAI's Node library, LiteLLM and `llm` read the same fields. The live tests run the first and the last of them.
"""

from __future__ import annotations

import json
from typing import Any

from openai.types import Completion, Model

from tests.clients.exchange import Got, Sent


def openai_sdk(sent: Sent, got: Got) -> list[str]:
    """Return the texts that OpenAI's libraries read from a response."""
    if sent.path == "/v1/nope":  # the libraries raise NotFoundError with the body's message
        assert got.status == 404
        assert isinstance(json.loads(got.data)["error"]["message"], str)
        return []
    if sent.path == "/v1/models":
        models = [Model.model_validate(m) for m in got.json()["data"]]
        assert models
        return []
    if sent.body.get("stream"):
        return _streamed(sent, got)
    return _plain(sent, Completion.model_validate(got.json()))


def _plain(sent: Sent, answer: Completion) -> list[str]:
    assert answer.usage
    assert answer.usage.completion_tokens <= sent.n * sent.max_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    for choice in answer.choices:
        if sent.body.get("logprobs"):
            found = choice.logprobs
            assert found
            assert found.tokens is not None
            assert "".join(found.tokens) == choice.text
            assert found.token_logprobs is not None
            assert found.text_offset is not None
            assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset)
            assert found.top_logprobs is not None
            assert all(len(t) >= sent.body["logprobs"] for t in found.top_logprobs)
        else:
            assert choice.logprobs is None
    assert [c.index for c in answer.choices] == list(range(len(answer.choices)))
    return [c.text for c in answer.choices]


def _chunk(data: str) -> tuple[Completion, list[str | None]]:
    """Return a chunk and the finish reasons of its choices, which the types do not allow to be null."""
    value: dict[str, Any] = json.loads(data)
    ends = [c["finish_reason"] for c in value["choices"]]
    for choice in value["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
    return Completion.model_validate(value), ends


def _streamed(sent: Sent, got: Got) -> list[str]:
    *events, done = got.events()
    assert done == "[DONE]"
    found = [_chunk(e) for e in events]
    if (sent.body.get("stream_options") or {}).get("include_usage"):
        last, ends = found.pop()
        assert ends == []
        assert last.usage
        assert last.usage.total_tokens > 0
    assert len({(c.id, c.created, c.model) for c, _ in found}) == 1
    texts: dict[int, str] = {}
    reasons: dict[int, list[str | None]] = {}
    for chunk, ends in found:
        assert chunk.usage is None
        for choice, end in zip(chunk.choices, ends, strict=True):
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            reasons.setdefault(choice.index, []).append(end)
    for *before, end in reasons.values():
        assert end in ("stop", "length")
        assert set(before) <= {None}
    return [texts[i] for i in sorted(texts)]
