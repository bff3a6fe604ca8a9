"""Shared fixtures; expensive ones are created once per session."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from converters import convert
from quantize import quantize
from tests.clients.fixtures import guarded, live, model_cache  # noqa: F401 — fixtures
from tests.support.hub_case import here, hub  # noqa: F401 — fixtures
from tests.support.signed import signed, split_model, unsigned  # noqa: F401 — fixtures
from turbopilot.app.resolve import demo_checkpoint as bundled
from turbopilot.llama.trial import SKIP_VARIABLE

# A parent that ignores signals (nohup, a shell's background job) hands that on to our children, which tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _name in ("SIGTERM", "SIGHUP", "SIGQUIT"):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), signal.SIG_DFL)


_HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


@pytest.fixture(autouse=True)
def signal_handlers() -> None:
    """Undo what an earlier test left behind: a server in the tests' process sets handlers, which end the process."""
    for number, handler in _HANDLERS.items():
        signal.signal(number, handler)


# An example may take any time, and so may its generation: the machine may be busy.
settings.register_profile("turbopilot", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("turbopilot")

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests never download anything
# The tests of trials switch them on; others load hundreds of new files.
os.environ.setdefault(SKIP_VARIABLE, "1")

# Only the tests of tuning measure the machine: others would write to the user's cache, and rebuild the KV cache while a
# test is idle.
os.environ.setdefault("TURBOPILOT_NO_TUNE", "1")

# One core for each of pytest-xdist's workers: llama.cpp's and PyTorch's threads wait for each other, which takes long
# where more of them run than there are cores.
if (_worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    return bundled()


@pytest.fixture(scope="session")
def demo_gguf(demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundled model as an F16 GGUF."""
    path = tmp_path_factory.mktemp("demo") / "demo-f16.gguf"
    convert(demo_checkpoint, path, dtype="f16")
    return path


@pytest.fixture(scope="session")
def demo_q4_0(demo_gguf: Path) -> Path:
    """Bundled model in Q4_0."""
    path = demo_gguf.with_name("demo-q4_0.gguf")
    quantize(demo_gguf, path, "Q4_0")
    return path
