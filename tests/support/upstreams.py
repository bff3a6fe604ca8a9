"""Runner with fake engines behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from serve.models.service import CompletionService
from serve.models.status import ModelInfo
from serve.request import Finished, GenerationRequest, SamplingParams, TextDelta
from serve.runner import Generation
from serve.settings import Limits, TextOptions
from serve.upstream.upstream_runner import UpstreamRunner
from serve.upstream.upstream_set import UpstreamSet
from tests.support.engines import FakeEngine
from tests.support.fakes import FakeDecoder

GREEDY = SamplingParams(temperature=0.0)


@contextmanager
def runner_of(
    upstreams: Sequence[FakeEngine], *, n_ctx: int = 256, slots: int | None = None, **more: Any
) -> Iterator[UpstreamRunner]:
    """Yield a runner that has asked these engines once, and has no thread that asks them again."""
    tokenizer = FakeDecoder()
    found = UpstreamSet([e.address for e in upstreams], tokenizer, slots=slots)
    found.check()
    runner = UpstreamRunner(found, tokenizer, n_ctx, **more)
    try:
        yield runner
    finally:
        runner.close()


def service_of(
    runner: UpstreamRunner, *, limits: Limits | None = None, text: TextOptions | None = None
) -> CompletionService:
    """Return a service of the fake vocabulary."""
    decoder = FakeDecoder()
    model = ModelInfo(decoder.name, decoder.n_ctx, decoder.n_vocab, 1_700_000_000)
    service = CompletionService(runner, decoder, model, limits, text)
    service.upstreams = runner.upstreams
    return service


def asked(text: str, max_tokens: int = 4, **more: Any) -> GenerationRequest:
    """Return a request with the bytes of a text as its prompt."""
    return GenerationRequest(
        tuple(text.encode()), max_tokens, sampling=more.pop("sampling", GREEDY), **more
    )


def begin(runner: UpstreamRunner, *requests: GenerationRequest, whole: bool = False) -> Generation:
    """Submit requests as one generation."""
    generation = Generation(runner, requests, whole=whole)
    runner.submit(generation)
    return generation


def taken(generation: Generation) -> tuple[str, Finished]:
    """Take all events of a generation of one request; return its text and its end."""
    text = ""
    while item := generation.next_event(timeout=60):
        event = item[1]
        if isinstance(event, Finished):
            return text, event
        assert isinstance(event, TextDelta)
        text += event.text
    raise AssertionError("no event within a minute")
