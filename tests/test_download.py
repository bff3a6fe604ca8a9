"""Downloads by the real client from a hub on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.hub_server import COMMIT, Hub, playing
from turbopilot import hub as client
from turbopilot.cli import app
from turbopilot.errors import DownloadError, HubUnreachable, InvalidInput, NotEnoughDisk
from turbopilot.hub import Listing, RemoteFile, choose_files, fetch, look_up

ROOT = Path(__file__).parents[1]
SIDE = {
    "config.json": b'{"model_type": "codegen"}',
    "tokenizer.json": b"{}",
    "vocab.json": b"{}",
    "merges.txt": b"#version: 0.2",
    "README.md": b"# x",
}
CHUNK = 10 << 20  # the client keeps what came in whole chunks of this
BIG = bytes(range(256)) * 50_000  # 12.8 MB: more than a chunk
SHARDS = {
    "model-00001-of-00002.safetensors": b"one",
    "model-00002-of-00002.safetensors": b"two",
    "model.safetensors.index.json": b"{}",
}
OTHER_COMMIT = "beef" * 10
REPOS = {
    "me/both": {
        **SIDE,
        "model.safetensors": BIG,
        "pytorch_model.bin": b"pickle",
        "modeling_evil.py": b"boom",
        "onnx/model.onnx": b"onnx",
        "onnx/config.json": b"{}",
    },
    "me/old": {**SIDE, "pytorch_model.bin": b"pickle", "tf_model.h5": b"h5"},
    "me/sharded": {**SIDE, **SHARDS, "model.safetensors": b"onetwo", "pytorch_model.bin": b"pickle"},
    "me/small": {**SIDE, "model.safetensors": b"weights"},
    "me/empty": dict(SIDE),
}  # fmt: skip


@pytest.fixture
def hub() -> Iterator[Hub]:
    refusals = {
        "me/gated": (403, "GatedRepo"),
        "me/private": (401, ""),
        "me/disabled": (403, ""),
        "me/down": (503, ""),
    }
    branches = {"me/small": {"dev": (OTHER_COMMIT, {**SIDE, "model.safetensors": b"newer"})}}
    repos = {name: dict(files) for name, files in REPOS.items()}
    with playing(Hub(repos, errors=refusals, branches=branches)) as hub:
        yield hub


@pytest.fixture
def looking(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub for look-ups in this process, for which the client's settings can be changed late."""
    import huggingface_hub

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()


def command(
    hub: Hub, home: Path, *arguments: str, **env: str
) -> tuple[list[str], dict[str, str], Path]:
    """What to run: the real client reads its settings when it is imported, so in a process of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    ours = {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", **settings, **env}
    return [sys.executable, "-m", "turbopilot", "download", *arguments], {**kept, **ours}, home


def download(hub: Hub, home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    words, environment, cwd = command(hub, home, *arguments, **env)
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment)


def contents(folder: Path) -> dict[str, bytes]:
    """Of the files that a person sees: the client keeps notes in .cache."""
    paths = (p for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def test_only_what_is_needed_safetensors_first_and_never_code(hub: Hub, tmp_path: Path) -> None:
    done = download(hub, tmp_path, "me/both", "--to", "to", "--json")
    assert done.returncode == 0, done.stderr
    wanted = {**SIDE, "model.safetensors": BIG}
    assert contents(tmp_path / "to") == wanted
    assert sorted(hub.bodies) == sorted((name, 0) for name in wanted)
    report = json.loads(done.stdout)
    assert report["repo"] == "me/both"
    assert report["commit"] == COMMIT
    assert Path(report["path"]) == tmp_path / "to"
    assert {f["name"]: f["bytes"] for f in report["files"]} == {
        k: len(v) for k, v in wanted.items()
    }
    assert report["bytes"] == sum(map(len, wanted.values()))
    again = download(hub, tmp_path, "me/both", "--to", "to", "--json")
    assert again.stdout == done.stdout
    assert len(hub.bodies) == len(wanted), "nothing is fetched twice"


def test_into_the_hubs_own_cache_and_not_twice(hub: Hub, tmp_path: Path) -> None:
    first = download(hub, tmp_path, "me/sharded")
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip())
    assert folder.name == COMMIT
    assert folder.is_relative_to(tmp_path / "hf")
    assert contents(folder) == {**SIDE, **SHARDS}, "shards once, and not their sum beside them"
    assert "turbopilot convert" in first.stderr
    bodies = len(hub.bodies)
    assert download(hub, tmp_path, "me/sharded").stdout == first.stdout
    assert len(hub.bodies) == bodies


def test_pickles_where_there_is_nothing_else(hub: Hub, tmp_path: Path) -> None:
    done = download(hub, tmp_path, "me/old", "--to", "to")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "to") == {**SIDE, "pytorch_model.bin": b"pickle"}


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        ([*SHARDS, "pytorch_model.bin"], sorted(SHARDS)),
        ([*SHARDS, "model.safetensors"], sorted(SHARDS)),
        (["model.safetensors", "model.safetensors.index.json"], ["model.safetensors", "model.safetensors.index.json"]),
        (["model.safetensors.index.json", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "pytorch_model.bin"],
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
        ),
        (["setup.py", "modeling_x.py", "tokenizer.py", "a/model.safetensors", "model.safetensors.py"], []),
        (["../model.safetensors", "/config.json", "training_args.bin", "optimizer.bin", "x.gguf"], []),
        ([], []),
    ],
)  # fmt: skip
def test_the_choice_of_files(names: list[str], chosen: list[str]) -> None:
    assert choose_files(names) == chosen


def test_a_connection_that_breaks_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.cut_once["model.safetensors"] = CHUNK + 1000
    done = download(hub, tmp_path, "me/both", "--to", "to")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "to")["model.safetensors"] == BIG
    assert starts(hub) == [0, CHUNK]


def starts(hub: Hub, name: str = "model.safetensors") -> list[int]:
    """From which byte on a file was fetched, each time."""
    return [start for fetched, start in hub.bodies if fetched == name]


@pytest.mark.parametrize("to", [["--to", "to"], []], ids=["folder", "cache"])
def test_a_download_that_failed_goes_on_the_next_time(
    hub: Hub, tmp_path: Path, to: list[str]
) -> None:
    """The connection breaks in the middle of the weights and the hub stays away: the next run fetches the rest."""
    hub.cut_once["model.safetensors"] = CHUNK + 1000
    hub.down_after["model.safetensors"] = 1
    done = download(hub, tmp_path, "me/both", *to)
    assert done.returncode == 3, done.stderr
    assert "did not answer" in done.stderr
    assert "run it again" in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.rglob("model.safetensors"))
    hub.down_after.clear()
    done = download(hub, tmp_path, "me/both", *to)
    assert done.returncode == 0, done.stderr
    assert contents(Path(done.stdout.strip())) == {**SIDE, "model.safetensors": BIG}
    assert starts(hub) == [0, CHUNK]
    assert starts(hub, "config.json") == [0], "finished files are kept"
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_download_goes_on_the_next_time(
    hub: Hub, tmp_path: Path, how: signal.Signals
) -> None:
    """The hub holds its breath in the middle of the weights; Ctrl-C does not wait for it."""
    hub.stall_once["model.safetensors"] = CHUNK + 1000
    words, environment, cwd = command(hub, tmp_path, "me/both", "--to", "to")
    with subprocess.Popen(words, cwd=cwd, env=environment, stderr=subprocess.PIPE) as process:
        assert hub.stalled.wait(timeout=60)
        process.send_signal(how)
        assert process.wait() == (130 if how == signal.SIGINT else -how)
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    hub.go_on.set()
    assert "model.safetensors" not in contents(tmp_path / "to")
    done = download(hub, tmp_path, "me/both", "--to", "to")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "to") == {**SIDE, "model.safetensors": BIG}
    assert len(starts(hub)) == 2


def test_another_revision_is_another_commit(hub: Hub, tmp_path: Path) -> None:
    done = download(hub, tmp_path, "me/small", "--revision", "dev", "--to", "to", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["commit"] == OTHER_COMMIT
    assert contents(tmp_path / "to")["model.safetensors"] == b"newer"


@pytest.mark.parametrize("to", [["--to", "to"], []], ids=["folder", "cache"])
def test_bytes_that_changed_on_the_way_are_found(hub: Hub, tmp_path: Path, to: list[str]) -> None:
    hub.corrupt.add("model.safetensors")
    done = download(hub, tmp_path, "me/small", *to)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "model.safetensors was damaged on the way" in done.stderr
    hub.corrupt.clear()
    done = download(hub, tmp_path, "me/small", *to)
    assert done.returncode == 0, done.stderr
    assert contents(Path(done.stdout.strip())) == REPOS["me/small"]


def test_an_older_file_in_the_folder_is_replaced(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "to" / name).write_bytes(
            REPOS["me/small"][name][:-1] + b"?"
        )  # of the same size
    done = download(hub, tmp_path, "me/small", "--to", "to")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "to") == REPOS["me/small"]


def test_an_older_file_is_not_taken_for_the_hubs(hub: Hub, tmp_path: Path) -> None:
    """The client warns and takes the file that is there, when the hub refuses to say which is wanted."""
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "README.md").write_text("mine and older")
    hub.refuses["head"] = (403, "")
    done = download(hub, tmp_path, "me/small", "--to", "to")
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert "README.md: is not the file that the hub lists" in done.stderr
    assert contents(tmp_path / "to") == {"README.md": b"mine and older"}


def test_files_that_the_owner_has_not_opened_to_us(hub: Hub, tmp_path: Path) -> None:
    """On the Hub the listing of a gated repository is public; its files are not."""
    hub.refuses["head"] = (403, "GatedRepo")
    done = download(hub, tmp_path, "me/small")
    assert done.returncode == 3
    assert "agreement" in done.stderr
    assert "Traceback" not in done.stderr
    assert not hub.bodies


def test_no_network(hub: Hub, tmp_path: Path) -> None:
    with socket.socket() as held:  # bound and not listening: whoever connects is refused
        held.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{held.getsockname()[1]}"
        refused = download(hub, tmp_path, "me/small", HF_ENDPOINT=nobody)
    offline = download(hub, tmp_path, "me/small", HF_HUB_OFFLINE="1")
    for done in (refused, offline):
        assert done.returncode == 3, done.stderr
        assert done.stdout == ""
        assert "did not answer" in done.stderr
        assert "HF_HUB_OFFLINE" in done.stderr
        assert "Traceback" not in done.stderr
    assert not hub.bodies


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["download", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_a_dry_run_fetches_nothing(looking: Hub) -> None:
    code, out, err = run("me/both", "--dry-run", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["commit"] == COMMIT
    assert [f["name"] for f in report["files"]] == sorted([*SIDE, "model.safetensors"])
    assert report["bytes"] == len(BIG) + sum(map(len, SIDE.values()))
    code, out, err = run("me/both", "--dry-run")
    assert code == 0, err
    assert "model.safetensors" in out
    assert "12.8 MB" in out
    assert COMMIT[:12] in out
    assert not looking.bodies


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["me/unknown"], ["me/unknown", "no such repository"]),
        (["me/small", "--revision", "v9"], ["no revision 'v9'"]),
        (["me/gated"], ["agreement", "hf auth login"]),
        (["me/private"], ["private", "hf auth login"]),
        (["me/disabled"], ["refuses (403)"]),
        (["me/empty"], ["no weights"]),
        (["me/down"], ["did not answer"]),
    ],
)
def test_refusals(looking: Hub, arguments: list[str], words: list[str]) -> None:
    code, out, err = run(*arguments)
    assert code == 3, err
    assert out == ""
    assert err.startswith("error: ")
    assert "hint: " in err
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert not looking.bodies


@pytest.mark.parametrize("page", [b"<html>Pay for this hotel's network</html>", b"[]", b'{"a": 1}'])
def test_something_that_is_no_hub(looking: Hub, page: bytes) -> None:
    looking.page = page
    with pytest.raises(HubUnreachable, match="not a Hugging Face Hub") as e:
        look_up("me/small")
    assert "HF_ENDPOINT" in e.value.hint


def test_a_hub_that_never_answers(looking: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_ANSWER_WITHIN", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", silent_url)
        with pytest.raises(HubUnreachable, match="did not answer"):
            look_up("me/small")


@pytest.mark.parametrize("name", ["codegen", "a/b/c", "../etc", "a b/c", "", "/", "a/", "a/b\n", "a--b/c"])  # fmt: skip
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidInput, match="not a repository"):
        look_up(name)


def listing(n_bytes: int = 7) -> Listing:
    return Listing("me/small", COMMIT, (RemoteFile("model.safetensors", n_bytes),))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for to in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidInput, match="cannot be made") as e:
            fetch(listing(), to)
        assert "--to" in e.value.hint


@pytest.mark.parametrize("into_cache", [True, False])
def test_too_little_disk_is_said_before_a_byte_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, into_cache: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(NotEnoughDisk, match="are free"):
        fetch(listing(10**18), None if into_cache else tmp_path / "to")
    assert not hub.bodies


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with pytest.raises(NotEnoughDisk, match="disk is full"):
        fetch(listing(), tmp_path / "to")


def test_other_faults_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", broken)
    with pytest.raises(DownloadError, match="Input/output error"):
        fetch(listing(), tmp_path / "to")
