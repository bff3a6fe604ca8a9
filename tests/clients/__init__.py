"""The editors' clients: how they read answers, drivers that run them, and the matrix of what they can."""

import pytest

# So that their assertions say what was there instead.
pytest.register_assert_rewrite(
    *(f"tests.clients.{name}" for name in ("exchange", "readers", "sdk_readers", "live"))
)
