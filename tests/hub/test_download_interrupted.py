"""Tests of downloads that are interrupted, killed, damaged, concurrent, or out of disk: they resume correctly."""

from __future__ import annotations

import hashlib
import resource
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.support.hub_case import (
    BIG,
    CUT,
    REPOS,
    SIDE,
    WEIGHTS,
    InProcess,
    command,
    contents,
    download,
    run,
    starts,
)
from tests.support.hub_server import COMMIT, Hub, playing
from turbopilot.base.errors import DownloadError, HubUnreachable, NotEnoughDisk
from turbopilot.hub import HubRequest, Listing, RemoteFile, fetch, look_up

WHOLE = {**SIDE, WEIGHTS: BIG}
INTO = pytest.mark.parametrize("into", ["folder", "cache"])


def arguments(here: InProcess, into: str) -> list[str]:
    return ["--to", str(here.folder)] if into == "folder" else []


def test_broken_connection_is_resumed(here: InProcess) -> None:
    here.hub.cut_once[WEIGHTS] = CUT
    code, _, err = run("me/both", "--to", str(here.folder))
    assert code == 0, err
    assert contents(here.folder) == WHOLE
    assert starts(here.hub) == [0, CUT]


def test_server_without_ranges_sends_the_whole_file(here: InProcess) -> None:
    here.hub.cut_once[WEIGHTS], here.hub.ranges = CUT, False
    code, _, err = run("me/both", "--to", str(here.folder))
    assert code == 0, err
    assert contents(here.folder) == WHOLE
    assert starts(here.hub) == [0, 0]


@INTO
def test_download_is_resumed_from_another_mirror(here: InProcess, into: str) -> None:
    """Shut down the first server for good; a mirror with the same files sends the rest."""
    here.hub.dies_after[WEIGHTS] = CUT
    code, out, err = run("me/both", *arguments(here, into))
    assert code == 3, err
    assert "did not answer" in err
    assert "run it again" in err
    assert out == ""
    assert len(here.waits) == 4, "several retries, each after a longer delay"
    assert here.waits == sorted(here.waits)
    assert not list(here.folder.parent.rglob(WEIGHTS))
    with playing(Hub({"me/both": dict(REPOS["me/both"])})) as other:
        here.go_to(other.url)
        code, out, err = run("me/both", *arguments(here, into))
        assert code == 0, err
        assert contents(Path(out.strip())) == WHOLE
        assert other.bodies == [(WEIGHTS, CUT)], (
            "complete files are kept, the partial one is resumed"
        )
    assert not list(here.folder.parent.rglob("*.part"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_download_is_resumed(hub: Hub, tmp_path: Path, how: signal.Signals) -> None:
    """Kill the download while the server stalls in the middle of the weights; Ctrl-C does not wait for the server."""
    hub.stall_once[WEIGHTS] = CUT
    words, environment, cwd = command(hub, tmp_path, "me/both", "--to", "to")
    with subprocess.Popen(words, cwd=cwd, env=environment, stderr=subprocess.PIPE) as process:
        assert hub.stalled.wait(timeout=60)
        process.send_signal(how)
        assert process.wait() == (130 if how == signal.SIGINT else -how)
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    hub.go_on.set()
    assert WEIGHTS not in contents(tmp_path / "to")
    assert not (tmp_path / "to" / "turbopilot-source.json").exists()
    done = download(hub, tmp_path, "me/both", "--to", "to")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "to") == WHOLE
    assert len(starts(hub)) == 2


@pytest.mark.parametrize("into", [["--to", "to"], []], ids=["folder", "cache"])
def test_second_process_waits_for_the_first(hub: Hub, tmp_path: Path, into: list[str]) -> None:
    """Start a second download in the middle of the first: it waits, then finds all files."""
    hub.stall_once[WEIGHTS] = CUT
    words, environment, cwd = command(hub, tmp_path, "me/both", *into)
    start = partial(subprocess.Popen[str], words, cwd=cwd, env=environment, text=True)
    start = partial(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with start() as first:
        assert hub.stalled.wait(timeout=60)
        with start() as second:
            assert second.stderr is not None
            assert any("waiting for it" in line for line in second.stderr)
            hub.go_on.set()
            ends = [process.communicate() for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], ends
    assert ends[0][0] == ends[1][0]
    assert contents(tmp_path / ends[0][0].strip()) == WHOLE
    assert starts(hub) == [0, CUT], "the second process downloaded nothing"


@pytest.mark.parametrize("kind", ["api", "config.json", WEIGHTS])
@pytest.mark.parametrize("status", [429, 503])
def test_busy_hub_is_retried_after_its_delay(here: InProcess, kind: str, status: int) -> None:
    here.hub.busy[kind] = [(status, "7"), (status, "")]
    code, _, err = run("me/both", "--to", str(here.folder))
    assert code == 0, err
    assert contents(here.folder) == WHOLE
    assert here.waits == [7, 2], "the delay that the server requests, then the default"


def test_busy_hub_is_retried_for_unlisted_checksums(here: InProcess) -> None:
    here.hub.metadata = False
    here.hub.busy["head"] = [(503, ""), (503, "")]
    code, out, err = run("me/both")
    assert code == 0, err
    assert contents(Path(out.strip())) == WHOLE
    assert here.waits == [1, 2]


def test_server_errors_are_retried(here: InProcess) -> None:
    here.hub.busy[WEIGHTS] = [(500, ""), (502, ""), (504, "")]
    assert run("me/both")[0] == 0
    assert here.waits == [1, 2, 4]


def test_busy_hub_is_an_error_after_all_retries(here: InProcess) -> None:
    here.hub.busy["api"] = [(429, "")] * 9
    with pytest.raises(HubUnreachable, match="429, too many requests") as e:
        look_up(HubRequest("me/both"))
    assert "hf auth login" in e.value.hint
    assert len(here.waits) == 4


@pytest.mark.parametrize("after", ["86400", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_long_retry_delay_is_an_error(here: InProcess, after: str) -> None:
    here.hub.busy["api"] = [(429, after)]
    with pytest.raises(HubUnreachable, match="asks to wait for") as e:
        look_up(HubRequest("me/both"))
    assert "run it again" in e.value.hint
    assert not here.waits


@INTO
@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_corrupted_download_is_detected(here: InProcess, into: str, name: str) -> None:
    here.hub.corrupt.add(name)
    code, out, err = run("me/small", *arguments(here, into))
    assert code == 3
    assert out == ""
    assert f"{name} was damaged during the download" in err
    here.hub.corrupt.clear()
    code, out, err = run("me/small", *arguments(here, into))
    assert code == 0, err
    assert contents(Path(out.strip())) == REPOS["me/small"]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_damaged_cache_is_detected(here: InProcess, name: str) -> None:
    folder = Path(run("me/small")[1].strip())
    (folder / name).write_bytes(b"?" * len(REPOS["me/small"][name]))
    code, out, err = run("me/small")
    assert code == 3
    assert out == ""
    assert f"rm {(folder / name).resolve()}" in err
    assert run("me/small", "--to", str(here.folder))[0] == 0
    assert contents(here.folder) == REPOS["me/small"], (
        "the damaged files are not copied from the cache"
    )


def test_oversized_body_is_rejected(here: InProcess) -> None:
    small = Listing(
        "me/both", COMMIT, (RemoteFile(WEIGHTS, 1000, hashlib.sha256(BIG).hexdigest()),)
    )
    with pytest.raises(DownloadError, match="more than the 1,000 bytes"):
        fetch(small, here.folder)
    assert WEIGHTS not in contents(here.folder)


@pytest.mark.parametrize("into_cache", [True, False])
def test_full_disk_is_reported_before_the_download(here: InProcess, into_cache: bool) -> None:
    listing = Listing("me/small", COMMIT, (RemoteFile(WEIGHTS, 10**18),))
    with pytest.raises(NotEnoughDisk, match="are free") as e:
        fetch(listing, None if into_cache else here.folder)
    assert "--to" in e.value.hint
    assert not here.hub.bodies


def test_download_resumes_after_full_disk(hub: Hub, tmp_path: Path) -> None:
    """Limit file sizes to half of the weights; without the limit, the download resumes from there."""
    half = len(BIG) // 2
    words, environment, cwd = command(hub, tmp_path, "me/both", "--to", "to")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))

    full = subprocess.run(
        words, cwd=cwd, env=environment, text=True, capture_output=True, preexec_fn=limit
    )
    assert full.returncode == 3, full.stderr
    assert "larger than the file system or your limit" in full.stderr
    assert "run it again" in full.stderr
    assert WEIGHTS not in contents(tmp_path / "to")
    done = download(hub, tmp_path, "me/both", "--to", "to")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "to") == WHOLE
    assert starts(hub) == [0, half]
