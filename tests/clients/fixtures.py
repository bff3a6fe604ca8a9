"""Fixtures of the live tests: servers that start once a session, and what scripts/test_clients prepared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.asked import KEY
from tests.clients.live import Live, live_server
from tests.clients.tools import Missing, Tools, prepared


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundled model is converted to, once."""
    return tmp_path_factory.mktemp("model-cache")


@pytest.fixture(scope="session")
def live(model_cache: Path) -> Iterator[Live]:
    """`turbopilot serve`, without any argument but a free port."""
    with live_server(model_cache) as server:
        yield server


@pytest.fixture(scope="session")
def guarded(model_cache: Path) -> Iterator[Live]:
    """`turbopilot serve` that asks for a key."""
    with live_server(model_cache, key=KEY) as server:
        yield server


def require(client: str) -> Tools:
    """The prepared folder; the test is skipped where the client is not in it."""
    try:
        tools = prepared()
        tools.require(client)
    except Missing as e:
        pytest.skip(str(e))
    return tools
