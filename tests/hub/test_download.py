"""Tests of `turbopilot download` with the real Hub client and a Hub server on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converters import provenance
from tests.support.hub_case import (
    BIG,
    OTHER_COMMIT,
    REPOS,
    SHARDS,
    SIDE,
    WEIGHTS,
    InProcess,
    contents,
    download,
    run,
)
from tests.support.hub_server import COMMIT, Hub
from turbopilot import hub as client
from turbopilot.base.errors import DownloadError, InvalidInput
from turbopilot.hub import HubRequest, Listing, RemoteFile, fetch, look_up


def test_only_needed_files_are_downloaded_and_never_code(hub: Hub, tmp_path: Path) -> None:
    done = download(hub, tmp_path, "me/both", "--to", "to", "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1, "no progress bars in a pipe"
    wanted = {**SIDE, WEIGHTS: BIG}
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
    assert len(hub.bodies) == len(wanted), "nothing is downloaded twice"


def test_second_download_to_the_cache_transfers_nothing(here: InProcess) -> None:
    code, out, err = run("me/sharded")
    assert code == 0, err
    folder = Path(out.strip())
    assert folder == here.cache / "models--me--sharded" / "snapshots" / COMMIT
    assert contents(folder) == {**SIDE, **SHARDS}, (
        "the shards, but not the single file with the same weights"
    )
    assert f"turbopilot convert {folder}" in err
    assert (here.cache / "models--me--sharded" / "refs" / "main").read_text() == COMMIT
    bodies = len(here.hub.bodies)
    assert run("me/sharded")[1] == out
    assert len(here.hub.bodies) == bodies


def test_files_of_other_programs_in_the_cache_are_used(here: InProcess) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download("me/small", allow_patterns=["*.json", "*.txt", "*.md", "*.safetensors"])
    bodies = len(here.hub.bodies)
    assert run("me/small")[0] == 0
    assert run("me/small", "--to", str(here.folder))[0] == 0
    assert contents(here.folder) == REPOS["me/small"], "copied from the cache"
    assert len(here.hub.bodies) == bodies


def test_other_programs_find_our_files_in_the_cache(here: InProcess) -> None:
    from huggingface_hub import snapshot_download

    assert run("me/small")[0] == 0
    bodies = len(here.hub.bodies)
    here.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert contents(Path(snapshot_download("me/small"))) == REPOS["me/small"]
    assert len(here.hub.bodies) == bodies


def test_pickles_are_downloaded_if_safetensors_are_missing(here: InProcess) -> None:
    code, _, err = run("me/old", "--to", str(here.folder))
    assert code == 0, err
    assert contents(here.folder) == {**SIDE, "pytorch_model.bin": b"pickle"}


def test_revision_is_downloaded_and_noted(here: InProcess) -> None:
    code, out, err = run("me/small", "--revision", "dev", "--to", str(here.folder), "--json")
    assert code == 0, err
    assert json.loads(out)["commit"] == OTHER_COMMIT
    assert json.loads(out)["revision"] == "dev"
    assert contents(here.folder)[WEIGHTS] == b"newer"
    origin = provenance.read_provenance(here.folder)
    assert (origin.repository, origin.revision) == ("me/small", OTHER_COMMIT)
    assert run("me/small", "--to", str(here.folder))[0] == 0
    assert contents(here.folder) == REPOS["me/small"]
    assert provenance.read_provenance(here.folder).revision == COMMIT


def test_note_has_the_file_name_that_convert_reads() -> None:
    assert client.NOTE == provenance.NOTE


def test_old_note_is_removed_before_files_are_replaced(here: InProcess) -> None:
    assert run("me/small", "--revision", "dev", "--to", str(here.folder))[0] == 0
    here.hub.corrupt.add(WEIGHTS)
    assert run("me/small", "--to", str(here.folder))[0] == 3
    assert not (here.folder / client.NOTE).exists()


def test_older_file_in_the_folder_is_replaced(here: InProcess) -> None:
    here.folder.mkdir()
    (here.folder / WEIGHTS).write_bytes(REPOS["me/small"][WEIGHTS][:-1] + b"?")  # of the same size
    code, _, err = run("me/small", "--to", str(here.folder))
    assert code == 0, err
    assert contents(here.folder) == REPOS["me/small"]


@pytest.mark.parametrize("into", ["folder", "cache"])
def test_mirror_without_sizes_and_checksums_is_usable(here: InProcess, into: str) -> None:
    here.hub.metadata = False
    code, out, err = run("me/both", *(["--to", str(here.folder)] if into == "folder" else []))
    assert code == 0, err
    assert contents(Path(out.strip())) == {**SIDE, WEIGHTS: BIG}


def test_denied_file_keeps_the_older_one(here: InProcess) -> None:
    listing = Listing("me/small", COMMIT, (RemoteFile("README.md", 3),))
    here.folder.mkdir()
    (here.folder / "README.md").write_text("mine and older")
    here.hub.refuses["head"] = (403, "")
    with pytest.raises(DownloadError, match=r"denied access \(403\)"):
        fetch(listing, here.folder)
    assert contents(here.folder) == {"README.md": b"mine and older"}


def test_progress_is_reported_for_each_file_and_in_total(here: InProcess) -> None:
    calls: list[tuple[int, int, str]] = []

    def seen(done: int, total: int, what: str = "", /) -> None:
        calls.append((done, total, what))

    listing = look_up(HubRequest("me/both"))
    fetch(listing, here.folder, seen)
    files = [c for c in calls if c[2] == WEIGHTS]
    assert [c[0] for c in files] == sorted(c[0] for c in files)
    assert files[-1] == (len(BIG), len(BIG), WEIGHTS)
    assert len(files) > 2, "progress is reported during the download, not only at the end"
    everything = [c for c in calls if not c[2]]
    assert [c[0] for c in everything] == sorted(c[0] for c in everything)
    assert everything[-1] == (listing.n_bytes, listing.n_bytes, "")


def test_dry_run_downloads_nothing(here: InProcess) -> None:
    code, out, err = run("me/both", "--dry-run", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["commit"] == COMMIT
    assert [f["name"] for f in report["files"]] == sorted([*SIDE, WEIGHTS])
    assert report["bytes"] == len(BIG) + sum(map(len, SIDE.values()))
    code, out, err = run("me/both", "--dry-run")
    assert code == 0, err
    assert WEIGHTS in out
    assert "2.0 MB" in out
    assert COMMIT[:12] in out
    assert not here.hub.bodies
    assert not here.cache.exists()


def test_only_tokenizer_downloads_no_weights(here: InProcess) -> None:
    code, out, err = run("me/both", "--only", "tokenizer", "--to", str(here.folder), "--json")
    assert code == 0, err
    assert contents(here.folder) == SIDE
    assert json.loads(out)["bytes"] == sum(map(len, SIDE.values()))
    code, _, err = run("me/one-gguf", "--only", "tokenizer")
    assert code == 3
    assert "no config.json" in err
    code, _, err = run("me/both", "--only", "tokeniser")
    assert code == 2
    assert "did you mean tokenizer?" in err


@pytest.mark.parametrize("name", ["codegen", "a/b/c", "../etc", "a b/c", "", "/", "a/", "a/b\n", "a--b/c"])  # fmt: skip
def test_malformed_repository_is_rejected(name: str) -> None:
    with pytest.raises(InvalidInput, match="not a repository"):
        look_up(HubRequest(name))


def test_unwritable_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    listing = Listing("me/small", COMMIT, (RemoteFile(WEIGHTS, 7),))
    for to in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidInput, match="cannot be created") as e:
            fetch(listing, to)
        assert "--to" in e.value.hint
