"""A request that a client sent and the answer that it gets. Knows nothing of clients or servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sent:
    """A captured request: `client` is who sent it, with its version; `body` is its JSON, or None."""

    client: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def stops(self) -> list[str]:
        found = (self.body or {}).get("stop") or []
        return [found] if isinstance(found, str) else found

    @property
    def n(self) -> int:
        body = self.body or {}
        prompts = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
        return prompts * int(body.get("n") or body.get("n_cmpl") or 1)

    @property
    def max_tokens(self) -> int:
        """Of one text; what the server takes where nothing is said."""
        body = self.body or {}
        options = body.get("options") or body
        for name in ("max_tokens", "n_predict", "num_predict"):
            if name in options:
                return int(options[name])
        return 200


@dataclass(frozen=True, slots=True)
class Got:
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def content_type(self) -> str:
        """Without its parameters."""
        return self.headers.get("content-type", "").split(";")[0]

    @property
    def text(self) -> str:
        return self.data.decode()

    def json(self) -> Any:
        """The body as one JSON value, which a client asks its HTTP library for."""
        assert self.status == 200, self.text
        assert self.content_type == "application/json"
        return json.loads(self.data)

    def events(self) -> Iterator[str]:
        """The data of server-sent events, as the standard has it read: events end at an empty line."""
        assert self.status == 200, self.text
        assert self.content_type == "text/event-stream"
        data: list[str] = []
        for line in self.text.split("\n"):
            if not line:
                if data:
                    yield "\n".join(data)
                data = []
            elif not line.startswith(":"):
                name, _, value = line.partition(":")
                assert name == "data", f"clients know no event field {name!r}"
                data.append(value.removeprefix(" "))
        assert not data, "the last event is not ended"
