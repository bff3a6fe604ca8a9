"""Fixtures of the live tests: servers that start once per session, and the clients of scripts/test_clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.asked import KEY
from tests.clients.live import Live, live_server
from tests.clients.tools import Missing, Tools, prepared


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache folder of the converted bundled model."""
    return tmp_path_factory.mktemp("model-cache")


@pytest.fixture(scope="session")
def live(model_cache: Path) -> Iterator[Live]:
    """Running `turbopilot serve` with default options on a free port."""
    with live_server(model_cache) as server:
        yield server


@pytest.fixture(scope="session")
def guarded(model_cache: Path) -> Iterator[Live]:
    """Running `turbopilot serve` with an API key."""
    with live_server(model_cache, key=KEY) as server:
        yield server


def require(client: str) -> Tools:
    """Return the installed clients; skip the test if this one is missing."""
    try:
        tools = prepared()
        tools.require(client)
    except Missing as e:
        pytest.skip(str(e))
    return tools
