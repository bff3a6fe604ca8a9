"""Probes of `turbopilot doctor`. Each runs by itself: one that crashes or hangs becomes a `Failed` fact."""

from __future__ import annotations

import os
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from serve.settings import DEFAULT_PORT
from turbopilot.app.doctor.facts import (
    BuildFacts,
    CoreFacts,
    DiskFacts,
    Failed,
    GraphicsFacts,
    HubFacts,
    Machine,
    MemoryFacts,
    SpeedFacts,
)
from turbopilot.app.doctor.processor_features import compiled_features, processor_facts
from turbopilot.app.doctor.server_health import local_server, port_facts, server_facts
from turbopilot.base import machine
from turbopilot.base.backends import choose_backend
from turbopilot.base.cache_folder import cache_folder
from turbopilot.base.errors import HubUnreachable, TurboPilotError
from turbopilot.base.graphics import Host, graphics_cards
from turbopilot.base.progress import Progress, silent

_SECONDS: Final = 15.0  # time limit of a probe
# Of those that start a child, which imports numpy and llama.cpp, and loads a driver or converts the bundled model.
_SECONDS_OF: Final = {"build": 60.0, "speed": 60.0, "graphics": 40.0}
_NETWORK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Places:
    """Targets of the probes.

    Attributes:
        port: the port that `serve` would use.
        url: URL of a running server; "" for none.
        offline: send no request to the Hub.
        speed: measure the speed.
    """

    port: int = DEFAULT_PORT
    url: str = ""
    offline: bool = False
    speed: bool = True
    host: Host = field(default_factory=Host)


def probes(places: Places) -> dict[str, Callable[[], Any]]:
    """Return the probe of each field of `Machine`, in the order in which they run."""
    return {
        "processor": lambda: processor_facts(places.host),
        "cores": _cores,
        "memory": _memory,
        "graphics": lambda: _graphics(places.host),
        "build": _build,
        "speed": _speed if places.speed else lambda: None,
        "disk": _disk,
        "port": lambda: port_facts(places.port),
        "server": lambda: server_facts(places.url) if places.url else local_server(places.port),
        "hub": lambda: _hub(places.offline),
    }


def look(
    looks: Mapping[str, Callable[[], Any]],
    progress: Progress = silent,
    seconds: Mapping[str, float] = _SECONDS_OF,
) -> Machine:
    """Run all probes and return their facts. `progress` receives the number of probes done."""
    assert looks.keys() == {f.name for f in fields(Machine)}
    facts = {}
    for i, (name, probe) in enumerate(looks.items()):
        progress(i, len(looks), name)
        facts[name] = _isolated(probe, seconds.get(name, _SECONDS))
    progress(len(looks), len(looks))
    return Machine(**facts)


def _isolated(probe: Callable[[], Any], seconds: float) -> Any:
    """Return the result of a probe, or `Failed` if it raised or took longer than `seconds`.

    A probe that hangs is left behind in its thread: a file system that does not answer cannot be interrupted.
    """
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(probe())
        except TurboPilotError as e:
            hint = f" ({e.hint})" if e.hint else ""
            results.put(Failed(f"{e.message}{hint}"))
        except Exception as e:
            results.put(Failed(f"{type(e).__name__}: {e}"))

    threading.Thread(target=run, name="doctor probe", daemon=True).start()
    try:
        return results.get(timeout=seconds)
    except queue.Empty:
        return Failed(f"it took more than {seconds:g} s")


def _cores() -> CoreFacts:
    return CoreFacts(
        physical=machine.physical_cores(range(os.cpu_count() or 1)),
        allowed=machine.physical_cores(machine.allowed_processors()), quota=machine.cpu_quota(),
    )  # fmt: skip


def _memory() -> MemoryFacts:
    return MemoryFacts(machine.installed_bytes(), machine.total_bytes(), machine.free_bytes())


def _graphics(host: Host) -> GraphicsFacts:
    cards = graphics_cards(host)
    nvcc = re.search(r"release ([\d.]+)", host.run(["nvcc", "--version"]))
    return GraphicsFacts(cards, choose_backend(cards, host), nvcc[1] if nvcc else "")


def _build() -> BuildFacts:
    from turbopilot.llama.child import run_child

    found: dict[str, Any] = {}
    run_child("turbopilot.app.doctor.build_child", {}, on_message=found.update, timeout=50)
    return BuildFacts(
        found["version"], compiled_features(found["system_info"]), tuple(found["backends"]),
        frozenset(found["built"]), tuple(found["devices"]),
    )  # fmt: skip


def _speed() -> SpeedFacts:
    from turbopilot.app.doctor.speed import measure_speed

    return measure_speed()


def _disk() -> DiskFacts:
    from turbopilot import hub

    folder = cache_folder()
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return DiskFacts(
        folder=folder, free=shutil.disk_usage(existing).free, writable=os.access(existing, os.W_OK),
        files=sum(_sizes(folder)), hub_folder=hub.hub_cache(), hub_files=sum(_sizes(hub.hub_cache())),
    )  # fmt: skip


def _sizes(folder: Path) -> Iterator[int]:
    """Yield the bytes of the files below a folder; links, of which the Hub's cache is full, are not followed."""
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(Path(parent, name))
            except OSError:  # removed since, or not readable
                continue
            yield status.st_size


def _hub(offline: bool) -> HubFacts:
    from turbopilot import hub

    url = hub.endpoint()
    proxy = hub.proxy_of(url)
    if offline or hub.is_offline():
        why = "--offline was given" if offline else "HF_HUB_OFFLINE is set"
        return HubFacts(url, proxy, skipped=why)
    try:
        return HubFacts(url, proxy, status=hub.request_status(url, seconds=_NETWORK_SECONDS))
    except HubUnreachable as e:
        return HubFacts(url, proxy, error=e.message)
