"""Fixtures of the live tests: servers that start once a session, and what scripts/test_clients prepared."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.asked import KEY
from tests.clients.live import ROOT, Live, live_server
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
    """The same, asking for a key."""
    done = subprocess.run(
        [sys.executable, "-m", "turbopilot", "serve", "--help"], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"}, check=True,
    )  # fmt: skip
    if "--api-key" not in done.stdout:
        pytest.skip("turbopilot serve has no --api-key yet")
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
