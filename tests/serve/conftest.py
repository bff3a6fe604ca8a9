"""Fixtures that several tests of the server share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.serving import MakeClient, flask_client
from tests.support.wire import attacked


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(flask_client(*args, **kwargs))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server that must be well after the module's last test."""
    with attacked() as port:
        yield port
