"""Models on Vulkan, computed by the processor (Mesa's llvmpipe). Run by scripts/test_devices --vulkan.

llvmpipe compiles every program of the GPU for the processor first, so these tests take minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.devices.lab import ENVIRONMENT, serving
from turbopilot.base.backends import built_backends
from turbopilot.llama.trial import SKIP_VARIABLE

pytestmark = [
    pytest.mark.devices,
    pytest.mark.skipif("vulkan" not in built_backends(), reason="llama.cpp was compiled without Vulkan"),
]  # fmt: skip
# llama.cpp hides Vulkan devices that are processors, unless they are named.
VULKAN = {**ENVIRONMENT, "GGML_VK_VISIBLE_DEVICES": os.environ.get("GGML_VK_VISIBLE_DEVICES", "0")}
N_UNITS = 5  # the bundled model's layers and its output head
PROMPTS = (
    "def fibonacci(n):\n    if n < 2:\n        return ",
    "import os\n\n\ndef main() -> None:\n    ",
)


def served(model: Path, *options: str) -> tuple[list[str], list[dict[str, Any]], str]:
    """Serve a model; return its completions, its device table, and the log until it was ready."""
    plain = ("--ctx", "256", "--parallel", "1", "--no-end-loops", "--no-heal")
    with serving(model, *plain, *options, environment=VULKAN) as server:
        texts = []
        for prompt in PROMPTS:
            body = {"prompt": prompt, "max_tokens": 12, "temperature": 0}
            status, answer = server.ask("POST", "/v1/completions", body)
            assert status == 200
            texts.append(answer["choices"][0]["text"])
        _, health = server.ask("GET", "/health")
        return texts, health["models"][0]["devices"], "".join(server.lines)


@pytest.fixture(scope="module", params=["F16", "Q4_0"])
def model(request: pytest.FixtureRequest, demo_gguf: Path, demo_q4_0: Path) -> Path:
    return {"F16": demo_gguf, "Q4_0": demo_q4_0}[request.param]


def test_verify_passes_with_no_half_and_all_layers(model: Path) -> None:
    for n in ("0", "2", "all"):
        done = subprocess.run(
            [sys.executable, "-m", "turbopilot", "verify", str(model), "--against", "demo", "--positions", "100",
             "--ngl", n, "--json"],
            capture_output=True, text=True, env=VULKAN, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        assert json.loads(done.stdout)["passed"] is True


@pytest.mark.parametrize("attention", ["on", "off"])
def test_completions_equal_those_of_the_processor(model: Path, attention: str) -> None:
    expected, alone, _ = served(model, "--ngl", "0")
    assert [use["device"] for use in alone] == ["CPU"]
    for n in (2, N_UNITS):
        texts, uses, log = served(model, "--ngl", str(n), "--flash-attn", attention)
        assert texts == expected
        here, there = uses
        assert there["device"] == "Vulkan0"
        assert "llvmpipe" in there["description"]
        assert there["layers"] + there["has_output"] == n
        assert here["layers"] == N_UNITS - n
        assert min(there["weights"], there["kv"], there["compute"]) > 0
        assert f"GPU      {n} of {N_UNITS} layers offloaded (Vulkan0" in log


def test_device_is_tried_in_a_child_before_the_server_uses_it(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VULKAN, "TURBOPILOT_CACHE", str(tmp_path))
    monkeypatch.delitem(VULKAN, SKIP_VARIABLE)
    served(demo_gguf, "--ngl", "2")
    assert len(list((tmp_path / "devices").iterdir())) == 1
