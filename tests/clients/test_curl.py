"""Tests of curl, which shell scripts, llama.vim and minuet use, against a live server with the bundled model."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.clients.asked import FIM, FRAMED, KEY, LONG, PLAIN, WRONG_KEY
from tests.clients.live import PATIENCE, Live, cancelling, wait_until

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


def command(live: Live, body: object, *options: str) -> list[str]:
    url = f"{live.url}/v1/completions"
    return ["curl", "-sS", "--noproxy", "*", *options, url, "--data", json.dumps(body)]


def curl(live: Live, body: object, *options: str) -> str:
    return subprocess.run(
        command(live, body, *options), capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout  # fmt: skip


def text_of(answer: str) -> str:
    return str(json.loads(answer)["choices"][0]["text"])


def events(output: str) -> list[Any]:
    *found, done, end = output.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(e.removeprefix("data: ")) for e in found]


@pytest.mark.cell("curl", "plain")
def test_plain_completion_is_one_line_of_json(live: Live) -> None:
    answer = curl(live, PLAIN)
    assert text_of(answer).strip()
    assert "\n" not in answer
    assert json.loads(answer)["usage"]["completion_tokens"] <= 24


@pytest.mark.cell("curl", "stream")
def test_stream_has_the_text_of_the_plain_completion(live: Live) -> None:
    chunks = events(curl(live, {**PLAIN, "stream": True}, "-N"))
    assert "".join(c["choices"][0]["text"] for c in chunks) == text_of(curl(live, PLAIN))


@pytest.mark.cell("curl", "FIM")
def test_suffix_is_sent_to_the_model(live: Live) -> None:
    assert text_of(curl(live, FRAMED)).startswith(text_of(curl(live, FIM)))


@pytest.mark.cell("curl", "cancel")
@pytest.mark.parametrize("stream", [True, False])
def test_terminated_curl_cancels_its_request(live: Live, stream: bool) -> None:
    call = command(live, {**LONG, "stream": stream}, "-N")
    with cancelling(live, LONG), subprocess.Popen(call, stdout=subprocess.PIPE) as process:
        assert process.stdout
        if stream:
            assert process.stdout.readline().startswith(b"data: {")
        wait_until(lambda: live.busy() == LONG["n"])
        process.terminate()


@pytest.mark.cell("curl", "auth")
def test_wrong_or_missing_key_returns_401(guarded: Live) -> None:
    status = ("-w", "\n%{http_code}")
    right = curl(guarded, PLAIN, "-H", f"Authorization: Bearer {KEY}", *status)
    assert right.endswith("\n200")
    for headers in ((), ("-H", f"Authorization: Bearer {WRONG_KEY}")):
        body, _, code = curl(guarded, PLAIN, *headers, *status).rpartition("\n")
        assert code == "401"
        assert isinstance(json.loads(body)["error"]["message"], str)
    health = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", f"{guarded.url}/health"], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert json.loads(health.stdout)["status"] == "ok"
