"""Fixtures shared by the server's tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from serve.runner import Generation
from tests.support.serving import MakeClient, flask_client
from tests.support.wire import attacked


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(flask_client(*args, **kwargs))


@pytest.fixture
def timeouts(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Timeouts, in seconds, of all waits for an event of a generation."""
    found: list[float | None] = []
    plain = Generation.next_event

    def next_event(job: Generation, timeout: float | None = None) -> Any:
        found.append(timeout)
        return plain(job, timeout)

    monkeypatch.setattr(Generation, "next_event", next_event)
    return found


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a server that must still work after the module's last test."""
    with attacked() as port:
        yield port


@pytest.fixture(scope="module")
def vocab(demo_gguf: Path) -> Iterator[Any]:
    """The bundled model's vocabulary in llama.cpp."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(demo_gguf).encode(), params)
    yield llama_cpp.llama_model_get_vocab(model)
    llama_cpp.llama_model_free(model)
