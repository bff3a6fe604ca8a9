"""Tests of OpenAI's Python library against a live server with the bundled model."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types import Completion

from tests.clients.asked import FIM, FRAMED, KEY, LONG, PLAIN, WRONG_KEY
from tests.clients.live import PATIENCE, Live, cancelling


def sync_client(live: Live, key: str = "any", *, strict: bool = True) -> openai.OpenAI:
    """Create a client; streams need `strict=False`, because the types forbid a null finish reason."""
    return openai.OpenAI(
        base_url=f"{live.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE,
        _strict_response_validation=strict,
    )  # fmt: skip


def async_client(live: Live) -> openai.AsyncOpenAI:
    url = f"{live.url}/v1"
    return openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0, timeout=PATIENCE)


def joined(chunks: list[Completion]) -> str:
    return "".join(choice.text for chunk in chunks for choice in chunk.choices)


def check_usage(answer: Completion) -> None:
    usage = answer.usage
    assert usage
    assert usage.prompt_tokens > 0
    assert 0 < usage.completion_tokens <= 24
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.cell("openai-python", "plain")
def test_plain_completion_has_text_usage_and_model(live: Live) -> None:
    with sync_client(live) as client:
        answer = client.completions.create(**PLAIN)
        assert answer.choices[0].text.strip()
        assert answer.choices[0].finish_reason in ("stop", "length")
        check_usage(answer)
        (model,) = client.models.list()
        assert answer.model == model.id == client.models.retrieve(model.id).id


@pytest.mark.cell("openai-python", "plain")
def test_raw_response_parses_to_the_same_choices(live: Live) -> None:
    with sync_client(live) as client:
        raw = client.completions.with_raw_response.create(**PLAIN)
        assert raw.http_response.status_code == 200
        assert raw.headers["content-type"] == "application/json"
        assert raw.parse().choices == client.completions.create(**PLAIN).choices


@pytest.mark.cell("openai-python", "plain")
def test_four_choices_have_log_probabilities(live: Live) -> None:
    with sync_client(live) as client:
        body = {**PLAIN, "temperature": 1, "top_p": 1}
        answer = client.completions.create(**body, n=4, logprobs=2, stop=["\n\n\n"])
        assert [c.index for c in answer.choices] == [0, 1, 2, 3]
        for choice in answer.choices:
            assert choice.logprobs
            assert choice.logprobs.tokens is not None
            assert "".join(choice.logprobs.tokens) == choice.text


@pytest.mark.cell("openai-python", "stream")
def test_stream_has_the_text_of_the_plain_completion(live: Live) -> None:
    with sync_client(live, strict=False) as client:
        plain = client.completions.create(**PLAIN)
        options: Any = {"include_usage": True}
        *chunks, last = client.completions.create(**PLAIN, stream=True, stream_options=options)
        assert joined(chunks) == plain.choices[0].text
        assert len(chunks) > 2
        assert chunks[-1].choices[0].finish_reason == plain.choices[0].finish_reason
        assert last.usage
        assert plain.usage
        assert last.usage.prompt_tokens == plain.usage.prompt_tokens
        assert last.usage.completion_tokens == plain.usage.completion_tokens


@pytest.mark.cell("openai-python", "stream")
def test_asynchronous_stream_has_the_text_of_the_plain_completion(live: Live) -> None:
    async def both() -> tuple[str, str]:
        async with async_client(live) as client:
            plain, stream = await asyncio.gather(
                client.completions.create(**PLAIN), client.completions.create(**PLAIN, stream=True)
            )
            return plain.choices[0].text, joined([chunk async for chunk in stream])

    plain, streamed = asyncio.run(both())
    assert plain == streamed


@pytest.mark.cell("openai-python", "FIM")
def test_suffix_is_sent_to_the_model(live: Live) -> None:
    with sync_client(live) as client:
        answer = client.completions.create(**FIM)
        framed = client.completions.create(**FRAMED)
        assert answer.usage
        assert framed.usage
        assert answer.usage.prompt_tokens == framed.usage.prompt_tokens
        # A completion with a suffix may end earlier, because the server stops it if it repeats the suffix.
        assert framed.choices[0].text.startswith(answer.choices[0].text)


@pytest.mark.cell("openai-python", "cancel")
def test_closed_stream_is_cancelled(live: Live) -> None:
    with sync_client(live, strict=False) as client, cancelling(live, LONG):
        stream = client.completions.create(**LONG, stream=True)
        for _ in range(3):
            next(stream)
        assert live.busy() == LONG["n"]
        stream.close()


@pytest.mark.cell("openai-python", "cancel")
def test_cancelled_plain_request_is_cancelled_in_the_server(live: Live) -> None:
    async def give_up() -> None:
        async with async_client(live) as client:
            task = asyncio.create_task(client.completions.create(**LONG))
            while not await asyncio.to_thread(live.busy):
                assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with cancelling(live, LONG):
        asyncio.run(give_up())


@pytest.mark.cell("openai-python", "auth")
def test_wrong_key_raises_authentication_error(guarded: Live) -> None:
    with sync_client(guarded, KEY) as client:
        assert client.completions.create(**PLAIN).choices[0].text
        assert list(client.models.list())
    with sync_client(guarded, WRONG_KEY) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.completions.create(**PLAIN)
        assert isinstance(refused.value.body, dict)
        assert isinstance(refused.value.body["message"], str)
        assert KEY not in json.dumps(refused.value.body)
