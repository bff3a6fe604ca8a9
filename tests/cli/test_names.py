"""Resolution of model names to files: paths, old ggml files, and names that are downloaded and converted once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converters import convert
from tests.support.hub_server import Hub, playing
from tests.support.old_ggml import old_neox, old_starcoder
from tests.support.tiny import tiny_checkpoint
from turbopilot import catalog
from turbopilot.app.resolve import resolve_checkpoint, resolve_gguf
from turbopilot.base.errors import InvalidInput, TurboPilotError
from turbopilot.base.progress import Reporter
from turbopilot.cli import app
from turbopilot.formats.gguf.file import read_gguf

ROOT = Path(__file__).parents[2]
RESOLVE = (
    "import sys; from turbopilot.app.resolve import resolve_gguf; from turbopilot.render.console import REPORTER; "
    "print(resolve_gguf(sys.argv[1], REPORTER))"
)
REPO = "bigcode/santacoder"
STABLECODE = "stabilityai/stablecode-instruct-alpha-3b"


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def starcoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("gptbigcode", tmp_path_factory.mktemp("starcoder"))


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("gptneox", tmp_path_factory.mktemp("neox"), intermediate_size=1024)


@pytest.fixture
def hub(starcoder: Path, neox: Path) -> Iterator[Hub]:
    repos = {"me/tiny": files_of(starcoder), REPO: files_of(starcoder), STABLECODE: files_of(neox)}
    with playing(Hub(repos)) as hub:
        yield hub


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "made"
    monkeypatch.setenv("TURBOPILOT_CACHE", str(folder))
    return folder


def run(hub_url: str, home: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process, because the Hub's client reads its settings on import."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    settings = {"HF_ENDPOINT": hub_url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    ours = {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", **settings, **env}
    return subprocess.run(
        [sys.executable, *command], env={**kept, **ours}, cwd=home, text=True, capture_output=True, check=False
    )  # fmt: skip


def test_name_is_downloaded_and_converted_once(hub: Hub, tmp_path: Path) -> None:
    first = run(hub.url, tmp_path, "-c", RESOLVE, "me/tiny:Q4_0")
    assert first.returncode == 0, first.stderr
    assert "downloading" in first.stderr
    assert "quantizing" in first.stderr
    path = Path(first.stdout.strip())
    assert "Q4_0" in {t.type_name for t in read_gguf(path).tensors}
    assert [p.name for p in path.parent.iterdir()] == [path.name], (
        "the intermediate F16 file is not kept"
    )
    sent = len(hub.bodies)
    again = run(hub.url, tmp_path, "-c", RESOLVE, "me/tiny:Q4_0")
    assert (again.stdout, again.stderr) == (first.stdout, "")
    assert len(hub.bodies) == sent
    offline = run("http://127.0.0.1:9", tmp_path, "-c", RESOLVE, "me/tiny:Q4_0")
    assert offline.stdout == first.stdout, offline.stderr


def test_alias_is_quantized_to_the_type_that_fits(hub: Hub, tmp_path: Path) -> None:
    done = run(hub.url, tmp_path, "-c", RESOLVE, "SantaCoder")
    assert done.returncode == 0, done.stderr
    assert REPO in done.stderr
    assert done.stdout.strip().endswith("-q8_0.gguf"), "it is small"


def test_type_without_ready_gguf_is_made_from_the_checkpoint(
    starcoder: Path, tmp_path: Path
) -> None:
    # A ready GGUF of another type is not used instead, even if it is in the cache.
    ready = tmp_path / "ready.gguf"
    convert(starcoder, ready, dtype="q8_0")
    ggufs = "ggml-org/Qwen2.5-Coder-0.5B-Q8_0-GGUF"
    repos = {
        ggufs: {"qwen2.5-coder-0.5b-q8_0.gguf": ready.read_bytes()},
        "Qwen/Qwen2.5-Coder-0.5B": files_of(starcoder),
    }
    with playing(Hub(repos)) as hub:
        done = run(hub.url, tmp_path, "-c", RESOLVE, "qwen2.5-coder-0.5b:Q8_0")
        assert "ggml-org" in done.stdout, done.stderr
        done = run(hub.url, tmp_path, "-c", RESOLVE, "qwen2.5-coder-0.5b:Q4_0")
        assert done.stdout.strip().endswith("-q4_0.gguf"), done.stderr
        assert "Q4_0" in {t.type_name for t in read_gguf(Path(done.stdout.strip())).tensors}
        done = run(hub.url, tmp_path, "-c", RESOLVE, f"{ggufs}:Q4_0")
        assert "no GGUF file of type Q4_0" in done.stderr


def test_every_verb_accepts_names(hub: Hub, tmp_path: Path) -> None:
    done = run(hub.url, tmp_path, "-m", "turbopilot", "convert", "me/tiny", "--dtype", "f32")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny-f32.gguf").is_file()
    done = run(
        hub.url, tmp_path, "-m", "turbopilot", "verify", "tiny-f32.gguf", "--against", "me/tiny"
    )
    assert done.returncode == 0, done.stderr + done.stdout
    done = run(hub.url, tmp_path, "-m", "turbopilot", "quantize", "me/tiny", "Q8_0")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny-q8_0.gguf").is_file()


def test_unknown_name_is_rejected(hub: Hub, tmp_path: Path) -> None:
    done = run(hub.url, tmp_path, "-m", "turbopilot", "convert", "santacodr")
    assert done.returncode == 2
    assert "did you mean santacoder" in done.stderr
    done = run(hub.url, tmp_path, "-m", "turbopilot", "convert", "me/nothing")
    assert done.returncode == 3
    assert "me/nothing" in done.stderr


def test_old_file_is_imported_once_next_to_itself(starcoder: Path, tmp_path: Path) -> None:
    old = old_starcoder(starcoder, tmp_path / "santacoder-q4_0.bin", "Q4_0")
    said: list[str] = []
    path = resolve_gguf(str(old), Reporter(said.append), model_type="starcoder")
    assert path == tmp_path / "santacoder-q4_0.bin.gguf"
    assert "importing it to" in said[0]
    when = path.stat().st_mtime_ns
    said.clear()
    assert resolve_gguf(str(old), Reporter(said.append)) == path
    assert (said, path.stat().st_mtime_ns) == ([], when)
    old_starcoder(starcoder, old, "Q8_0")
    os.utime(old, ns=(when + 1, when + 1))
    resolve_gguf(str(old), Reporter(said.append))
    assert "Q8_0" in {t.type_name for t in read_gguf(path).tensors}


def test_old_file_in_a_read_only_folder_is_imported_to_the_cache(
    starcoder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = old_starcoder(starcoder, tmp_path / "x.bin", "F16")
    monkeypatch.setattr("os.access", lambda *_: False)  # because root can write everywhere
    path = resolve_gguf(str(old), Reporter())
    assert path.parent == cache
    assert resolve_gguf(str(old), Reporter()) == path


def test_tokenizer_of_stablecode_is_downloaded(hub: Hub, neox: Path, tmp_path: Path) -> None:
    # StableCode's old files lost bytes of their vocabulary, so the original tokenizer is downloaded and compared.
    old = old_neox(neox, tmp_path / "stablecode.bin", "Q5_1")
    done = run(hub.url, tmp_path, "-c", RESOLVE, str(old))
    assert done.returncode == 0, done.stderr
    assert STABLECODE in done.stderr
    assert not any(name.endswith(".safetensors") for name, _ in hub.bodies)
    convert(neox, tmp_path / "new.gguf")
    mine, theirs = (
        read_gguf(p).metadata for p in (tmp_path / "stablecode.bin.gguf", tmp_path / "new.gguf")
    )
    assert mine["tokenizer.ggml.merges"] == theirs["tokenizer.ggml.merges"]


def test_folders_and_files_are_resolved(starcoder: Path, tmp_path: Path, cache: Path) -> None:
    assert resolve_checkpoint(str(starcoder), Reporter()) == starcoder
    made = resolve_gguf(str(starcoder), Reporter(), type_name="F16")
    assert made.parent == cache
    assert resolve_gguf(str(made), Reporter()) == made
    with pytest.raises(InvalidInput, match="a file, not a folder"):
        resolve_checkpoint(str(made), Reporter())
    with pytest.raises(TurboPilotError):
        resolve_gguf(str(tmp_path / "absent.gguf"), Reporter())


def test_folder_is_quantized_to_the_type_that_fits(
    starcoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The geometry is read from the config and the tensors' shapes, because the catalogue does not have the model.
    assert resolve_gguf(str(starcoder), Reporter()).name.endswith("-q8_0.gguf")
    monkeypatch.setattr("turbopilot.llama.footprint.total_bytes", lambda: 10**8)
    said: list[str] = []
    with pytest.raises(
        InvalidInput, match=r"does not fit in memory: as Q4_0 it takes 1\d\d\.\d MB"
    ) as e:
        resolve_gguf(str(starcoder), Reporter(said.append))
    assert f"turbopilot quantize {starcoder} --fit 75.0MB" in e.value.hint
    assert not said


def test_existing_gguf_is_resolved_without_the_converters(demo_gguf: Path) -> None:
    code = (
        "import sys; from turbopilot.app.resolve import resolve_gguf; from turbopilot.base.progress import Reporter; "
        "print(resolve_gguf(sys.argv[1], Reporter())); "
        "print([m for m in sys.modules if m.split('.')[0] in ('converters', 'quantize', 'numpy')])"
    )
    command = [sys.executable, "-c", code, str(demo_gguf)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.splitlines() == [str(demo_gguf), "[]"]


@pytest.mark.parametrize("gib", [1, 2, 4, 8, 16, 32, 64])
def test_serve_makes_the_type_that_models_shows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gib: int
) -> None:
    made: list[str] = []

    def converted(_folder: Path, type_name: str, **_: object) -> Path:
        made.append(type_name)
        return tmp_path

    monkeypatch.setattr("turbopilot.llama.footprint.total_bytes", lambda: gib * 2**30)
    monkeypatch.setattr("turbopilot.app.resolve.converted", converted)
    monkeypatch.setattr(
        "turbopilot.app.resolve._fetch", lambda _name, wanted, *_, **__: (tmp_path, wanted)
    )
    shown = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)["models"]
    assert len(shown) == len(catalog.MODELS)
    for model in shown:
        for name in (model["alias"], model["repository"]):
            made.clear()
            if model["best_type"]:
                resolve_gguf(name, Reporter())
                assert made == [model["best_type"]], name
            else:
                with pytest.raises(InvalidInput, match="does not fit") as e:
                    resolve_gguf(name, Reporter())
                assert f"turbopilot quantize {model['repository']} --fit" in e.value.hint
            resolve_gguf(f"{name}:Q4_0", Reporter())
            assert made[-1] == "Q4_0", "an explicit type is used even if it does not fit"
