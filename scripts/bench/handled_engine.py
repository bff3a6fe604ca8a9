"""Engine of a cluster that also answers calls of Ray Serve's handles, to compare both ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from serve.http.app import create_app
from tests.cluster.fixed_delay import DelayedEngine
from turbopilot.cluster.roles import Role


class HandledEngine(DelayedEngine):
    """Engine whose routes can be called through Ray Serve, without HTTP."""

    def __init__(self, role: Role) -> None:
        super().__init__(role)
        self._client = create_app(self._models).test_client()

    def complete(self, body: dict[str, Any]) -> bytes:
        """Return the response to a request."""
        response = self._client.post("/v1/completions", json=body)
        assert response.status_code == 200, response.data
        return bytes(response.data)

    def stream(self, body: dict[str, Any]) -> Iterator[bytes]:
        """Yield the events of a streamed response."""
        response = self._client.post("/v1/completions", json={**body, "stream": True})
        yield from response.iter_encoded()
