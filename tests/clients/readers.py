"""Readers that parse a response in the same way as each client, independent of the server.

A reader gets the request and the response. It returns the texts that the client would show, and fails if the client
would show nothing or an error. Each reader follows its client's source, because the clients' rules differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from tests.clients.exchange import Got, Sent
from tests.clients.sdk_readers import openai_sdk

Reader: TypeAlias = Callable[[Sent, Got], list[str]]

DONE = "[DONE]"
ENDS = ("stop", "length")


def refused(got: Got) -> None:
    """Check for a JSON 404: OpenAI's libraries raise NotFoundError, and Copilot's agent ignores it."""
    assert got.status == 404
    assert got.content_type == "application/json"
    assert isinstance(json.loads(got.data)["error"]["message"], str)


def copilot(sent: Sent, got: Got) -> list[str]:
    """Read as GitHub Copilot's agent, which always streams and stops if the token lacks one of its three fields."""
    if sent.path == "/copilot_internal/v2/token":
        token = got.json()
        assert isinstance(token["token"], str)
        assert token["token"]
        assert isinstance(token["expires_at"], int)
        assert isinstance(token["refresh_in"], int)
        assert 0 < token["refresh_in"] < 3600
        return []
    if sent.path == "/models":
        assert all(isinstance(m["id"], str) for m in got.json()["data"])
        return []
    if sent.method == "GET":  # account, embeddings, telemetry: the agent works without them
        refused(got)
        return []
    texts: dict[int, str] = {}
    ended: set[int] = set()
    *frames, last = got.events()
    assert last == DONE
    heads = set()
    for frame in map(json.loads, frames):
        heads.add((frame["id"], frame["created"]))
        for choice in frame["choices"]:
            index = choice["index"]
            assert index not in ended, "text after the finish reason is lost"
            texts[index] = texts.get(index, "") + choice["text"]  # null would be an exception
            if choice["finish_reason"] is not None:
                assert choice["finish_reason"] in ENDS
                ended.add(index)
    ((name, created),) = heads  # they identify a completion
    assert name
    assert created > 0
    assert ended == set(texts)
    return [texts[i] for i in sorted(texts)]


def fauxpilot(sent: Sent, got: Got) -> list[str]:
    """Read as FauxPilot's plugin for VS Code: the first choice of a plain response."""
    return [got.json()["choices"][0]["text"]]


def _continue_sse(got: Got) -> list[Any]:
    """Read as Continue's `streamSse`: line by line; a comment ": ping" ends the stream."""
    assert got.status == 200, got.text  # for any other status the body is the error message
    found: list[Any] = []
    for line in got.text.split("\n"):
        if line.startswith(("data:[DONE]", "data: [DONE]", ": ping")):
            return found
        if line.startswith("data:"):
            frame = json.loads(line[len("data:") :])
            assert not frame.get("error")
            found.append(frame)
    raise AssertionError("no [DONE]")


def continue_fetch(sent: Sent, got: Got) -> list[str]:
    if sent.path == "/v1/nope":
        refused(got)
        return []
    chunks = [c for c in _continue_sse(got) if c.get("choices")]
    return ["".join(c["choices"][0]["text"] for c in chunks)]


def continue_adapters(sent: Sent, got: Got) -> list[str]:
    """Read as Continue's openai-adapters: with OpenAI's library, except for Mistral's FIM route."""
    if sent.path != "/v1/fim/completions":
        return openai_sdk(sent, got)
    chunks = [c for c in _continue_sse(got) if c.get("choices")]
    return ["".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)]


def llama_vim(sent: Sent, got: Got) -> list[str]:
    """Read as llama.vim: it searches the raw line before decoding it, and needs the fields that it requested."""
    (line,) = got.text.split("\n")  # Vim passes on single lines
    assert re.match(r"\s*{", line)
    assert '"content":"' in line  # older versions search for it without a space
    answer = json.loads(line)
    assert set(answer) == set(sent.body["response_fields"])
    assert all(isinstance(answer[f], int) for f in ("timings/prompt_n", "timings/predicted_n"))
    for name in ("prompt", "predicted"):
        assert isinstance(answer[f"timings/{name}_ms"], float)
        assert isinstance(answer[f"timings/{name}_per_second"], float)
    assert isinstance(answer["tokens_cached"], int)
    assert answer["truncated"] is False
    return [answer["content"]]


def llama_vscode(sent: Sent, got: Got) -> list[str]:
    """Read as llama.vscode: a list of results if it requested several; it ignores the response to a warm-up request."""
    answer = got.json()
    if "n_cmpl" not in sent.body:
        assert answer["content"] == ""
        return []
    assert isinstance(answer, list)
    for one in answer:
        assert isinstance(one["timings"]["predicted_n"], int)
        assert isinstance(one["timings"]["predicted_ms"], float)
        assert isinstance(one["tokens_cached"], int)
        assert one["truncated"] is False
    return [one["content"] for one in answer]


def minuet(sent: Sent, got: Got) -> list[str]:
    """Read as minuet-ai.nvim: curl's whole output; lines without JSON that has a text are ignored."""
    assert got.status == 200
    text = ""
    for line in got.text.split("\n"):
        try:
            part = json.loads(re.sub("^data:", "", line))["choices"][0]["text"]
        except (ValueError, LookupError):
            continue
        text += part if isinstance(part, str) else ""
    return [text]


def twinny(sent: Sent, got: Got) -> list[str]:
    """Read as Twinny: any line of JSON, with or without "data:" before it, for any media type."""
    assert got.status == 200, got.text
    text = ""
    for line in got.text.split("\n"):
        try:
            found = json.loads(line.split("data:")[1] if line.startswith("data:") else line)
        except ValueError:
            continue
        if sent.path == "/api/generate":
            text += found["response"]
        elif sent.path == "/infill":
            text += found["content"]
        elif found["choices"]:
            text += found["choices"][0]["text"]
    if sent.path == "/api/generate":
        lines = [json.loads(line) for line in got.text.splitlines()]
        assert [x["done"] for x in lines] == [False] * (len(lines) - 1) + [True]
        assert all(x["model"] == sent.body["model"] for x in lines)
    return [text]


def tabby(sent: Sent, got: Got) -> list[str]:
    """Read as tabby-agent 1.5: "ready" needs a health with model and device; a completion needs id and choices."""
    if sent.path == "/v1/events":  # read as text
        assert got.status == 200
        return []
    answer = got.json()
    if sent.path == "/v1/health":
        assert isinstance(answer["model"], str)
        assert isinstance(answer["device"], str)
        assert isinstance(answer["version"], dict)
        return []
    assert answer["id"]
    assert isinstance(answer["id"], str)
    assert [c["index"] for c in answer["choices"]] == list(range(len(answer["choices"])))
    return [c["text"] for c in answer["choices"]]


# Prefix of a captured client's name → its reader.
READERS: dict[str, Reader] = {
    "copilot": copilot, "vscode-fauxpilot": fauxpilot, "continue fetch": continue_fetch,
    "continue openai-adapters": continue_adapters, "litellm": openai_sdk, "llm": openai_sdk,
    "openai-node": openai_sdk, "openai-python": openai_sdk, "llama.vim": llama_vim,
    "llama.vscode": llama_vscode, "minuet-ai.nvim": minuet, "twinny": twinny, "tabby-agent": tabby,
}  # fmt: skip


def reader_of(client: str) -> Reader:
    (found,) = {name for name in READERS if re.match(re.escape(name) + r"($|[ .\-])", client)}
    return READERS[found]
