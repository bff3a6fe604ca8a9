"""Tests with real clients: readers of their responses, drivers that run them, and a matrix of their capabilities."""

import pytest

# For detailed messages of failed assertions in these modules.
pytest.register_assert_rewrite(
    *(f"tests.clients.{name}" for name in ("exchange", "readers", "sdk_readers", "live"))
)
