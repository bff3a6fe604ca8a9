"""Tests of Simon Willison's `llm` against a live server with the bundled model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.clients.asked import FRAMED, KEY, PLAIN, WRONG_KEY
from tests.clients.fixtures import require
from tests.clients.live import PATIENCE, Live
from tests.support.fakes import FakeDecoder
from tests.support.serving import running, wait

pytestmark = pytest.mark.clients


class Command:
    def __init__(self, url: str, folder: Path, key: str = "any") -> None:
        self._llm = [str(require("llm").python), "-m", "llm"]
        # JSON is YAML.
        model = {
            "model_id": "here", "model_name": "codegen", "api_base": f"{url}/v1", "api_key_name": "here",
            "completion": True,
        }  # fmt: skip
        folder.joinpath("extra-openai-models.yaml").write_text(json.dumps([model]), "utf-8")
        folder.joinpath("keys.json").write_text(json.dumps({"here": key}), "utf-8")
        self._environ = {**os.environ, "LLM_USER_PATH": str(folder)}

    def line(self, prompt: str, *options: str) -> list[str]:
        return [*self._llm, "-m", "here", *options, prompt]

    def start(self, prompt: str, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.line(prompt, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self._environ,
        )  # fmt: skip

    def run(self, prompt: str, *options: str) -> subprocess.CompletedProcess[str]:
        return self.call(*self.line(prompt, *options)[len(self._llm) :])

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._llm, *arguments], capture_output=True, text=True, env=self._environ, check=False,
            timeout=PATIENCE,
        )  # fmt: skip


GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "24")


@pytest.mark.cell("llm", "plain")
@pytest.mark.cell("llm", "stream")
def test_plain_and_streamed_output_have_the_same_text(live: Live, tmp_path: Path) -> None:
    llm = Command(live.url, tmp_path)
    plain = llm.run(PLAIN["prompt"], *GREEDY, "--no-stream")
    streamed = llm.run(PLAIN["prompt"], *GREEDY)
    expected = live.complete(**PLAIN)
    for done in (plain, streamed):
        assert done.returncode == 0, done.stderr
        assert done.stdout.rstrip("\n") == expected["choices"][0]["text"].rstrip("\n")


@pytest.mark.cell("llm", "stream")
def test_usage_of_a_stream_is_logged_by_llm(live: Live, tmp_path: Path) -> None:
    llm = Command(live.url, tmp_path)
    assert llm.run(PLAIN["prompt"], *GREEDY).returncode == 0
    (logged,) = json.loads(llm.call("logs", "--json").stdout)
    usage = live.complete(**PLAIN)["usage"]
    told = logged["response_json"]["usage"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert told[name] == usage[name]


@pytest.mark.cell("llm", "FIM")
def test_fim_tokens_in_the_prompt_complete_the_middle(live: Live, tmp_path: Path) -> None:
    """Write the model's FIM tokens in the prompt, because llm has no option for a suffix."""
    done = Command(live.url, tmp_path).run(FRAMED["prompt"], *GREEDY)
    assert done.returncode == 0, done.stderr
    expected = live.complete(**FRAMED)["choices"][0]["text"]
    assert done.stdout.rstrip("\n") == expected.rstrip("\n")


@pytest.mark.cell("llm", "cancel")
@pytest.mark.parametrize("options", [(), ("--no-stream",)])
def test_ctrl_c_cancels_the_request(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Interrupt llm while the decoder waits at a gate."""
    gate = threading.Semaphore(0)
    with running(FakeDecoder(gate=gate, n_batch=64)) as server:
        llm = Command(f"http://127.0.0.1:{server.port}", tmp_path)
        with llm.start("count", *options) as process:
            wait(server.runner.submitted)
            gate.release(3)
            process.send_signal(signal.SIGINT)
            wait(server.runner.cancelled)
            process.communicate(timeout=PATIENCE)
            assert process.returncode != 0


@pytest.mark.cell("llm", "auth")
def test_wrong_key_prints_401_without_a_traceback(guarded: Live, tmp_path: Path) -> None:
    done = Command(guarded.url, tmp_path, KEY).run(PLAIN["prompt"], *GREEDY)
    assert done.returncode == 0, done.stderr
    refused = Command(guarded.url, tmp_path, WRONG_KEY).run(PLAIN["prompt"], *GREEDY)
    assert refused.returncode != 0
    assert "401" in refused.stderr
    assert "Traceback" not in refused.stderr
