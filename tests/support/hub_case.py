"""Fixtures and helpers for tests of downloads: a fake Hub with repositories, and clients of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from tests.support.hub_server import Hub, OddResponse, playing
from turbopilot.cli import app

ROOT: Final = Path(__file__).parents[2]
SIDE: Final = {
    "config.json": b'{"model_type": "codegen"}', "tokenizer.json": b"{}", "vocab.json": b"{}",
    "merges.txt": b"#version: 0.2", "README.md": b"# x",
}  # fmt: skip
BIG: Final = bytes(range(256)) * 8_000  # 2 MB: more than a buffer
CUT: Final = (1 << 20) + 1000  # in the middle of BIG
WEIGHTS: Final = "model.safetensors"
SHARDS: Final = {
    "model-00001-of-00002.safetensors": b"one",
    "model-00002-of-00002.safetensors": b"two",
    "model.safetensors.index.json": b'{"weight_map": {"a": "model-00001-of-00002.safetensors", '
    b'"b": "model-00002-of-00002.safetensors"}}',
}
OTHER_COMMIT: Final = "beef" * 10
REPOS: Final = {
    "me/both": {
        **SIDE, WEIGHTS: BIG, "pytorch_model.bin": b"pickle", "modeling_evil.py": b"boom",
        "onnx/model.onnx": b"onnx", "onnx/config.json": b"{}",
    },
    "me/old": {**SIDE, "pytorch_model.bin": b"pickle", "tf_model.h5": b"h5"},
    "me/sharded": {**SIDE, **SHARDS, WEIGHTS: b"onetwo", "pytorch_model.bin": b"pickle"},
    "me/small": {**SIDE, WEIGHTS: b"weights"},
    "me/gated-small": {**SIDE, WEIGHTS: b"weights"},
    "me/empty": dict(SIDE),
    "me/one-gguf": {"README.md": b"# x", "tiny.gguf": b"GGUF", "mmproj-f16.gguf": b"eyes"},
    "me/ggufs": {
        "README.md": b"# x", "tiny-q4_k_m.gguf": b"GGUF4", "tiny-Q4_K_S.gguf": b"GGUF4s",
        "Q8_0/tiny-Q8_0-00001-of-00002.gguf": b"GGUF8a", "Q8_0/tiny-Q8_0-00002-of-00002.gguf": b"GGUF8b",
        "tiny-F16-00001-of-00002.gguf": b"half of it", "tiny.imatrix.gguf": b"imatrix", "evil.py": b"boom",
    },
    "me/ggml": {"old-q4_0.bin": b"lmgg", "README.md": b"# x"},
}  # fmt: skip


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Running Hub with `REPOS`, some repositories that refuse access, and a branch dev of me/small."""
    refusals = {
        "me/gated": (403, "GatedRepo"), "me/private": (401, ""), "me/disabled": (403, ""), "me/down": (503, ""),
    }  # fmt: skip
    branches = {"me/small": {"dev": (OTHER_COMMIT, {**SIDE, WEIGHTS: b"newer"})}}
    repos = {name: dict(files) for name, files in REPOS.items()}
    with playing(Hub(repos, errors=refusals, branches=branches)) as hub:
        yield hub


@dataclass
class InProcess:
    """Hub client of this process: its Hub, cache, target folder, and the waits recorded instead of sleeping."""

    hub: Hub
    cache: Path
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    waits: list[float] = field(default_factory=list)

    def go_to(self, url: str) -> None:
        import huggingface_hub

        huggingface_hub.close_session()
        files = url + "/{repo_id}/resolve/{revision}/{filename}"
        self.monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        self.monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)


@pytest.fixture
def here(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcess]:
    """Real client in this process, with changed settings."""
    import huggingface_hub

    case = InProcess(hub, tmp_path / "cache", tmp_path / "to", monkeypatch)
    clock = types.SimpleNamespace(sleep=case.waits.append)
    monkeypatch.setattr("turbopilot.hub.client.sleep", case.waits.append)
    monkeypatch.setattr(
        "huggingface_hub.utils._http.time", clock
    )  # the library's waits before a HEAD request
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    settings = {
        "HF_HUB_CACHE": str(case.cache), "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(tmp_path / "token"), "HF_HUB_DISABLE_TELEMETRY": True,
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    case.go_to(hub.url)
    yield case
    huggingface_hub.close_session()


def run(*arguments: str) -> tuple[int, str, str]:
    """Run `turbopilot download` in this process; return the exit code, stdout and stderr."""
    done = CliRunner().invoke(app, ["download", *arguments])
    return done.exit_code, done.stdout, done.stderr


def command(
    hub: Hub, home: Path, *arguments: str, **env: str
) -> tuple[list[str], dict[str, str], Path]:
    """Return the command, environment and folder for `turbopilot download` in a child process."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "600",  # a stalled answer must not be retried on a busy machine
    }
    ours = {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1,localhost", **settings, **env}
    return [sys.executable, "-m", "turbopilot", "download", *arguments], {**kept, **ours}, home


def download(hub: Hub, home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `turbopilot download` in a child process."""
    words, environment, cwd = command(hub, home, *arguments, **env)
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment)


def odd_listing(answer: Any) -> Callable[[str, str], OddResponse | None]:
    """Return a server's `odd` that sends `answer` as every listing."""
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    def odd(_: str, path: str) -> OddResponse | None:
        return (200, {"Content-Type": "application/json"}, [data]) if "/api/" in path else None

    return odd


def contents(folder: Path) -> dict[str, bytes]:
    """Return the downloaded files, without the bookkeeping in .cache and turbopilot-source.json."""
    paths = (p for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts)
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in paths
        if p.name != "turbopilot-source.json"
    }


def starts(hub: Hub, name: str = WEIGHTS) -> list[int]:
    """Return the offset of the first byte of each download of a file."""
    return [start for fetched, start in hub.bodies if fetched == name]
