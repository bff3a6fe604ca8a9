"""Recorded request of a client and the response to it, independent of clients and servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sent:
    """Captured request: `client` is the name and version of its sender; `body` is the parsed JSON, or None."""

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
        """Limit of one completion; the server's default if the request has none."""
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
        """Media type without its parameters."""
        return self.headers.get("content-type", "").split(";")[0]

    @property
    def text(self) -> str:
        return self.data.decode()

    def json(self) -> Any:
        """Parse the body of a plain response."""
        assert self.status == 200, self.text
        assert self.content_type == "application/json"
        return json.loads(self.data)

    def events(self) -> Iterator[str]:
        """Yield the data of server-sent events, parsed as in the standard: an empty line ends an event."""
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
                assert name == "data", f"clients do not support the event field {name!r}"
                data.append(value.removeprefix(" "))
        assert not data, "the last event has no empty line after it"
