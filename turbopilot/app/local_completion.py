"""Completions by a model file in this process, as the server would generate them."""

from __future__ import annotations

from pathlib import Path

from serve.api.completions import TabbyRequest
from serve.model_choice import ModelChoice
from serve.models.loading import load_model
from serve.settings import CacheOptions, Defaults, Limits, ModelOptions, ServerOptions
from turbopilot.app.served_models import with_models
from turbopilot.base.errors import InvalidInput, InvalidRequest
from turbopilot.base.progress import Reporter
from turbopilot.client.completion import Chunks, CursorRequest


def local_chunks(model: str, request: CursorRequest, reporter: Reporter) -> Chunks:
    """Load a model and yield the chunks of its answer. Closing the iterator cancels the request.

    Args:
        model: same as MODEL of `turbopilot serve`.
        request: the request; its model name is ignored.
        reporter: receives messages and progress of downloads and conversions.

    Raises:
        InvalidInput: a value of the request cannot be used.
        TurboPilotError: the model cannot be found, downloaded, converted or loaded.
    """
    try:
        asked = TabbyRequest.read(request.body)
        completion = asked.completion(Defaults())
    except InvalidRequest as e:
        raise InvalidInput(e.message, hint="check the options") from None
    options = ServerOptions(
        Path(),
        ModelOptions(tunes=False, n_seq=1 if request.n == 1 else None),
        limits=Limits(deadline=None),
        caches=CacheOptions(prefix_bytes=0, looks_ahead=False),
    )
    service = load_model(with_models(options, ModelChoice(model), reporter), lambda line: None)
    try:
        generation = service.start(completion)
        rendering = asked.rendering(asked, service, truncated=bool(generation.truncated))
        yield from rendering.chunks(generation.events())
        yield from rendering.last(generation.usage)
    finally:
        service.close()
