"""Tests of tabby-agent 1.5, driven like Tabby's plugins for Vim and IntelliJ, against a live server."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.asked import KEY, PREFIX, SUFFIX, WRONG_KEY
from tests.clients.fixtures import require
from tests.clients.live import Live
from tests.clients.tools import Lines, talk
from tests.support.fakes import FakeDecoder, around_the_cursor
from tests.support.serving import running, wait

pytestmark = pytest.mark.clients


class Agent:
    """Client of tabby-agent: a call is [id, {func, args}], its result [id, result]; events have the id 0."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._ids = itertools.count(1)
        self.events: list[Any] = []

    def begin(self, func: str, *args: object) -> int:
        call = next(self._ids)
        self._lines.say([call, {"func": func, "args": args}])
        return call

    def result(self, call: int) -> Any:
        """Return the result of a call; None if it failed or was cancelled."""
        while (line := self._lines.hear()) is not None:
            if line[0] == call:
                return line[1]
            if line[0] == 0:
                self.events.append(line[1])
        raise AssertionError("the agent ended")

    def call(self, func: str, *args: object) -> Any:
        return self.result(self.begin(func, *args))


@contextmanager
def agent(home: Path, url: str, token: str = "") -> Iterator[Agent]:
    """Run an initialized agent with its own home folder and without telemetry."""
    cli = require("tabby-agent").folder / "node/node_modules/tabby-agent/dist/cli.js"
    config = {
        "server": {"endpoint": url, "token": token},
        "completion": {"debounce": {"mode": "fixed", "interval": 0}},
        "anonymousUsageTracking": {"disable": True},
    }
    with talk(["node", str(cli)], {"HOME": str(home)}, by_signal=True) as lines:
        found = Agent(lines)
        assert found.call("initialize", {"config": config, "clientProperties": {}}) is True
        yield found
        found.call("finalize")


def at_cursor(prefix: str = PREFIX, suffix: str = SUFFIX) -> dict[str, Any]:
    return {
        "filepath": "m.py", "language": "python", "text": prefix + suffix, "position": len(prefix),
        "manually": True,
    }  # fmt: skip


@pytest.mark.cell("tabby-agent", "plain")
def test_completion_and_its_view_event_are_accepted(live: Live, tmp_path: Path) -> None:
    with agent(tmp_path, live.url) as a:
        assert a.call("getStatus") == "ready"
        health = a.call("getServerHealthState")
        assert health["model"] == live.complete(prompt="x", max_tokens=1)["model"]
        answer = a.call("provideCompletions", at_cursor())
        assert answer["id"].startswith("cmpl-")
        (choice,) = answer["choices"]
        assert choice["index"] == 0
        assert choice["text"].strip()
        event = {"type": "view", "completion_id": answer["id"], "choice_index": 0}
        assert a.call("postEvent", event) is True
        assert "connectionFailed" not in a.call("getIssues")


@pytest.mark.cell("tabby-agent", "FIM")
def test_prefix_and_suffix_are_sent_to_the_model(tmp_path: Path) -> None:
    with running(FakeDecoder(n_ctx=1024, n_batch=256)) as server:
        with agent(tmp_path, f"http://127.0.0.1:{server.port}") as a:
            (choice,) = a.call("provideCompletions", at_cursor())["choices"]
            assert choice["text"].isalpha()  # the fake decoder's
        before, after = around_the_cursor(server.runner.seen[0].prompt)
    assert before.endswith(PREFIX)
    assert after == SUFFIX


@pytest.mark.cell("tabby-agent", "cancel")
def test_cancelled_completion_is_cancelled_in_the_server(tmp_path: Path) -> None:
    """Cancel a request, as after a new keystroke, while the decoder waits at a gate."""
    gate = threading.Semaphore(0)
    with (
        running(FakeDecoder(gate=gate, n_ctx=1024, n_batch=256)) as server,
        agent(tmp_path, f"http://127.0.0.1:{server.port}") as a,
    ):
        call = a.begin("provideCompletions", at_cursor(), {"signal": True})
        wait(server.runner.submitted)
        gate.release(3)
        assert a.call("cancelRequest", call) is True
        wait(server.runner.cancelled)


@pytest.mark.cell("tabby-agent", "auth")
def test_wrong_key_is_reported_as_unauthorized(guarded: Live, tmp_path: Path) -> None:
    with agent(tmp_path, guarded.url, KEY) as a:
        assert a.call("getStatus") == "ready"
        assert a.call("provideCompletions", at_cursor())["choices"]
    with agent(tmp_path, guarded.url, WRONG_KEY) as a:
        # The agent reports only the failed health check, not the rejected completion.
        assert a.call("getStatus") == "unauthorized"
        assert a.call("provideCompletions", at_cursor()) is None
        assert "authRequired" in [event["event"] for event in a.events]
