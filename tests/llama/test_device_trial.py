"""Tests of the trial of a device, whose crashes are those of a replaced child process."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from turbopilot.base.errors import MemoryShort, ServeError, TurboPilotError
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.llama.child import ChildFailed
from turbopilot.llama.device_trial import usable_attention
from turbopilot.llama.devices import Device
from turbopilot.llama.trial import SKIP_VARIABLE
from turbopilot.llama.worker_link import WorkerLink

GPU = Device("GPU0", "a GPU", 10**9)
WORKER = Device("RPC0", "127.0.0.1:1", 10**9, link=WorkerLink("127.0.0.1:1"))


class Driver:
    """Replaces `run_child`: raises the error for each kind of attention, and keeps the jobs."""

    def __init__(self, errors: Mapping[bool | None, TurboPilotError]) -> None:
        self.errors, self.tried = errors, list[tuple[str, bool | None]]()

    def __call__(self, module: str, job: Mapping[str, Any], *, timeout: float) -> None:
        assert module == "turbopilot.llama.device_trial_child"
        assert timeout > 0
        self.tried.append((job["device"], job["flash_attention"]))
        if error := self.errors.get(job["flash_attention"]):
            raise error


SEGFAULT = ChildFailed(-signal.SIGSEGV, "")


@pytest.fixture
def header(demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GgufHeader:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path))
    monkeypatch.delenv(SKIP_VARIABLE)
    return read_gguf(demo_gguf)


def test_success_is_stored_for_the_device_and_its_settings(header: GgufHeader) -> None:
    driver = Driver({})
    for _ in range(2):
        assert usable_attention(header, [GPU, WORKER], "f16", None, driver) is None
    assert driver.tried == [("GPU0", None)], "workers are processes of their own"
    assert usable_attention(header, [GPU], "q8_0", True, driver) is True
    assert usable_attention(header, [Device("GPU1", "another", 1)], "f16", None, driver) is None
    assert driver.tried[1:] == [("GPU0", True), ("GPU1", None)]


def test_crash_with_flash_attention_switches_it_off(
    header: GgufHeader, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver({None: SEGFAULT})
    with caplog.at_level(logging.WARNING):
        assert usable_attention(header, [GPU], "f16", None, driver) is False
    assert driver.tried == [("GPU0", None), ("GPU0", False)]
    assert (
        "GPU0 (a GPU): attention with a KV cache in f16 crashed there in a trial: signal 11"
        in caplog.text
    )
    assert "flash attention is not used" in caplog.text
    assert usable_attention(header, [GPU], "f16", None, driver) is False
    assert driver.tried[2:] == [("GPU0", None)], (
        "a driver may have been updated, so a crash is not stored"
    )


@pytest.mark.parametrize(
    ("errors", "cache_type", "wanted", "hint"),
    [
        ({None: SEGFAULT, False: SEGFAULT}, "f16", None, "update the driver"),
        ({True: SEGFAULT}, "f16", True, "use --flash-attn off"),
        ({None: SEGFAULT}, "q8_0", None, "use --cache-type f16"),
    ],
)
def test_crash_of_needed_attention_is_refused(
    header: GgufHeader,
    errors: Mapping[bool | None, TurboPilotError],
    cache_type: str,
    wanted: bool | None,
    hint: str,
) -> None:
    with pytest.raises(ServeError, match="crashed there in a trial: signal 11") as e:
        usable_attention(header, [GPU], cache_type, wanted, Driver(errors))
    assert hint in e.value.hint


@pytest.mark.parametrize(
    "error",
    [
        MemoryShort("no memory"),
        ChildFailed(1, "ImportError"),
        ChildFailed(
            -signal.SIGABRT, "CUDA error: all CUDA-capable devices are busy or unavailable"
        ),
    ],
)
def test_other_failures_are_left_to_loading(header: GgufHeader, error: TurboPilotError) -> None:
    driver = Driver({None: error})
    for _ in range(2):
        assert usable_attention(header, [GPU], "f16", None, driver) is None
    assert len(driver.tried) == 2, "only a success is stored"


def test_trial_that_never_ends_counts_as_a_crash(header: GgufHeader) -> None:
    late = ChildFailed(-signal.SIGKILL, "it took more than 600 seconds")
    assert usable_attention(header, [GPU], "f16", None, Driver({None: late})) is False


def test_trials_can_be_skipped(header: GgufHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SKIP_VARIABLE, "1")
    driver = Driver({None: SEGFAULT})
    assert usable_attention(header, [GPU], "f16", None, driver) is None
    assert driver.tried == []
