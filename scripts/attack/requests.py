"""Hostile requests, repeatable by seed and index: fields, schemas, token ids, framing, slow and gone clients."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from attack.hostile_values import bias_body, prompt_body, schema_body, stop_body
from attack.mutate import INTEGERS, TEXTS, bytes_mutated, json_bytes, json_mutated, junk
from tests.support.described import BODIES, Document, resolved

METHODS: Final = (
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "get",
    "",
    "X" * 300,
)
HEADERS: Final = (
    ("Host", TEXTS), ("Origin", ("null", "http://evil.example", "file://", "http://localhost:1")), ("Accept", TEXTS),
    ("Transfer-Encoding", ("chunked", "gzip", "chunked, chunked", "xchunked")), ("Expect", ("100-continue", "x")),
    ("Content-Length", ("-1", "0", "1e3", "9" * 400)), ("Connection", ("close", "upgrade", "keep-alive, x")),
    ("Content-Encoding", ("gzip", "br")), ("X-TurboPilot-Session", TEXTS), ("Upgrade", ("websocket", "h2c")),
    ("X-TurboPilot-Deadline-Ms", ("1", "0", "-1", "x", "9" * 300)),
    ("X-TurboPilot-Priority", ("low", "normal", "x")), ("X-Request-Id", TEXTS), ("A b", ("c",)),
    ("Authorization", ("Bearer " + "x" * 9000, "Basic !", "")), ("Range", ("bytes=0-1",)), ("X" * 5000, ("y",)),
    ("Content-Type", ("text/plain", "application/json; charset=utf-16", "multipart/form-data; boundary=x")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request.

    Attributes:
        kind: row of the table.
        parts: bytes that are sent one after another, with `pause` seconds between them.
        whole: whether it is framed correctly, so that it must be answered.
        leave: seconds after which the client leaves without reading the answer; None: it waits.
        reset: whether it leaves by RST instead of FIN.
    """

    kind: str
    parts: tuple[bytes, ...]
    whole: bool = True
    pause: float = 0.0
    leave: float | None = None
    reset: bool = False

    @property
    def raw(self) -> bytes:
        """All bytes of the request."""
        return b"".join(self.parts)

    @property
    def has_deadline(self) -> bool:
        """Whether it sets a deadline, after which 504 is the documented answer."""
        return b"deadline" in self.raw.lower()


def request(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    """Return a correctly framed request, after whose answer the server closes the connection."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("utf-8", "replace") + body


class RequestMaker:
    """Maker of requests for the routes of a server's /openapi.json."""

    def __init__(self, document: Document, seed: int) -> None:
        self._document, self._seed = document, seed
        self._posts: list[tuple[str, str]] = []  # path, name of a body's schema
        self._paths = [p for p in document["paths"] if p != "/status/stream"]  # it never ends
        for path, operations in document["paths"].items():
            content = operations.get("post", {}).get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            for found in re.findall(r"schemas/(\w+)", json.dumps(schema)):
                if found in BODIES:
                    self._posts.append((path.replace("{engine}", "x"), found))

    def make(self, index: int) -> Attempt:
        """Return the request of an index."""
        rng = Random(f"{self._seed} {index}")
        names, weights, makers = zip(*_MIX, strict=True)
        (at,) = rng.choices(range(len(names)), weights)
        maker: Callable[[RequestMaker, Random], Attempt] = makers[at]
        return maker(self, rng)

    def _post(self, rng: Random) -> tuple[str, dict[str, Any], Mapping[str, Any]]:
        path, name = rng.choice(self._posts)
        schema = self._document["components"]["schemas"][name]
        return path, {**BODIES[name], **_short(name, rng)}, schema

    def fields(self, rng: Random) -> Attempt:
        """Return a body with up to six more fields, whose values mostly fit their schemas."""
        path, body, schema = self._post(rng)
        names = sorted(schema["properties"])
        for name in rng.sample(names, rng.randrange(min(7, len(names) + 1))):
            wrong = rng.random() < 0.25
            body[name] = junk(rng) if wrong else self.value(rng, schema["properties"][name])
        return Attempt("fields", (request(path, _dumped(body)),))

    def bodies(self, rng: Random) -> Attempt:
        """Return a body that is changed anywhere, or is not JSON."""
        path, body, _ = self._post(rng)
        data = (
            json_bytes(rng, json_mutated(rng, body)) if rng.random() < 0.7 else _dumped(junk(rng))
        )
        return Attempt("bodies", (request(path, data),))

    def schemas(self, rng: Random) -> Attempt:
        """Return a hostile JSON schema or grammar."""
        path, body, _ = self._post(rng)
        return Attempt("schemas", (request(path, _dumped({**body, **schema_body(rng)})),))

    def texts(self, rng: Random) -> Attempt:
        """Return hostile stop strings, biases, prompts and token ids."""
        path, body, _ = self._post(rng)
        for more in rng.sample((stop_body, bias_body, prompt_body), rng.choice((1, 1, 2))):
            body.update(more(rng))
        return Attempt("texts and ids", (request(path, _dumped(body)),))

    def framing(self, rng: Random) -> Attempt:
        """Return a request with changed bytes, chunks or headers."""
        path, body, _ = self._post(rng)
        data = request(path, _dumped(body))
        way = rng.randrange(4)
        if way == 0:
            data = bytes_mutated(rng, data)
        elif way == 1:
            pieces = [data[i : i + 7] for i in range(data.index(b"\r\n\r\n") + 4, len(data), 7)]
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
            chunked = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            data = chunked.encode() + bytes_mutated(rng, chunks)
        elif way == 2:
            head, _, rest = data.partition(b"\r\n")
            line = b"%s: %s\r\n" % tuple(s.encode("utf-8", "replace") for s in _header(rng))
            data = head + b"\r\n" + line * rng.choice((1, 1, 2, 500)) + rest
        else:
            data = bytes_mutated(rng, data) + data * rng.randrange(3)
        return Attempt("framing", (data,), whole=False)

    def routes(self, rng: Random) -> Attempt:
        """Return any method and any path, with odd headers."""
        path = rng.choice(self._paths)
        path = re.sub(
            r"{\w+}", lambda _: rng.choice(("x", "%00", "..", "a" * 9000, "%ff", "a%2fb")), path
        )
        if rng.random() < 0.3:
            path += rng.choice(
                ("?", "?stream=true&" + "a=b&" * 999, "/", "/..", "#x", "%2e%2e/", "\x7f")
            )
        headers = [
            f"{name}: {value}" for name, value in (_header(rng) for _ in range(rng.randrange(4)))
        ]
        data = request(path, b"", *headers, method=rng.choice(METHODS))
        return Attempt("routes", (data,), whole=False)

    def slow(self, rng: Random) -> Attempt:
        """Return a request in small pieces, or one that never ends."""
        path, body, _ = self._post(rng)
        data = request(path, _dumped(body))
        step = max(1, len(data) // rng.choice((3, 10, 40)))
        parts = [data[i : i + step] for i in range(0, len(data), step)]
        if rng.random() < 0.5:
            return Attempt("slow", tuple(parts), pause=rng.choice((0.01, 0.05)))
        cut = parts[: rng.randrange(len(parts))]
        return Attempt(
            "half open",
            tuple(cut),
            whole=False,
            leave=rng.uniform(0.2, 3),
            reset=rng.random() < 0.5,
        )

    def gone(self, rng: Random) -> Attempt:
        """Return a request whose client leaves before or within its answer."""
        path, body, schema = self._post(rng)
        if "stream" in schema["properties"]:
            body["stream"] = rng.random() < 0.7
        leave = rng.choice((0.0, rng.uniform(0, 0.05), rng.uniform(0, 0.5)))
        return Attempt(
            "gone", (request(path, _dumped(body)),), leave=leave, reset=rng.random() < 0.5
        )

    def value(self, rng: Random, schema: Mapping[str, Any], depth: int = 0) -> Any:
        """Return a value of a schema's type; it may violate the schema's other conditions."""
        schema = resolved(self._document, schema)
        if "enum" in schema:
            return rng.choice(schema["enum"])
        if "const" in schema:
            return schema["const"]
        if "anyOf" in schema and "type" not in schema:
            return self.value(rng, rng.choice(schema["anyOf"]), depth)
        kinds = schema.get("type", ())
        kind = kinds if isinstance(kinds, str) else rng.choice(kinds) if kinds else ""
        if kind in ("integer", "number"):
            edges = [
                schema[k]
                for k in ("minimum", "maximum", "default")
                if isinstance(schema.get(k), (int, float))
            ]
            return rng.choice(
                [*edges, 0, 1, 2, 0.5 if kind == "number" else 3, rng.choice(INTEGERS)]
            )
        if kind == "string":
            return rng.choice((*TEXTS, "def f(x):\n    ", "x" * rng.randrange(200)))
        if kind == "boolean":
            return rng.random() < 0.5
        if kind == "array" and depth < 4:
            items = schema.get("prefixItems") or [schema.get("items", {})] * rng.randrange(4)
            return [self.value(rng, item, depth + 1) for item in items]
        if kind == "object" and depth < 4 and "properties" in schema:
            chosen = [
                n
                for n in schema["properties"]
                if n in schema.get("required", ()) or rng.random() < 0.4
            ]
            return {n: self.value(rng, schema["properties"][n], depth + 1) for n in chosen}
        return junk(rng) if not kind else {} if kind == "object" else None


def _short(name: str, rng: Random) -> dict[str, Any]:
    """Return a field for few tokens, in the words of a request's dialect."""
    n = rng.randrange(1, 16)
    if name in ("LlamaCompletionRequest", "InfillRequest"):
        return {"n_predict": n}
    if name.startswith("HuggingFace"):
        return {"parameters": {"max_new_tokens": n}}
    return {"options": {"num_predict": n}} if name.startswith("Ollama") else {"max_tokens": n}


def _header(rng: Random) -> tuple[str, str]:
    name, values = rng.choice(HEADERS)
    return name, rng.choice(values)


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "replace")


_MIX: Final = (
    ("fields", 30, RequestMaker.fields), ("bodies", 13, RequestMaker.bodies), ("schemas", 10, RequestMaker.schemas),
    ("texts", 14, RequestMaker.texts), ("framing", 12, RequestMaker.framing), ("routes", 9, RequestMaker.routes),
    ("slow", 4, RequestMaker.slow), ("gone", 8, RequestMaker.gone),
)  # fmt: skip
