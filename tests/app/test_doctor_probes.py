"""Probes of `turbopilot doctor`: what they see on this machine, and that a fault in one does not reach the others."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.app.test_doctor import HEALTHY
from tests.base.test_graphics import host
from tests.support.hub_case import InProcess
from turbopilot import hub
from turbopilot.app.doctor import Failed, Machine, Places, look, probes
from turbopilot.app.doctor.facts import BuildFacts, HubFacts, PortFacts, ServerFacts
from turbopilot.app.doctor.processor_features import FEATURES, compiled_features, processor_facts
from turbopilot.app.doctor.product_child import blas_name, product_flops
from turbopilot.app.doctor.server_health import port_facts, server_facts
from turbopilot.app.doctor.speed import copy_speed
from turbopilot.base.errors import InvalidInput


def looks(**probes_of: Any) -> dict[str, Any]:
    """Return probes that find a healthy machine, with some replaced."""
    values = {name: lambda name=name: getattr(HEALTHY, name) for name in Machine.__slots__}
    return {**values, **probes_of}


def raising(error: Exception) -> Any:
    def probe() -> None:
        raise error

    return probe


def test_probe_that_raises_does_not_stop_the_others() -> None:
    machine = look(
        looks(cores=raising(ZeroDivisionError("x")), disk=raising(InvalidInput("no", hint="do"))),
    )
    assert machine.cores == Failed("ZeroDivisionError: x")
    assert machine.disk == Failed("no (do)")
    assert machine.hub == HEALTHY.hub


def test_probe_that_hangs_is_left_behind() -> None:
    released = threading.Event()
    machine = look(looks(graphics=released.wait), seconds={"graphics": 0.01})
    released.set()
    assert machine.graphics == Failed("it took more than 0.01 s")
    assert machine.build == HEALTHY.build


def test_progress_names_each_probe() -> None:
    seen: list[tuple[int, int, str]] = []
    look(looks(), lambda done, total, what="", /: seen.append((done, total, what)))
    n = len(Machine.__slots__)
    assert [x[2] for x in seen] == [*Machine.__slots__, ""]
    assert seen[-1][:2] == (n, n)


def test_every_fact_has_a_probe() -> None:
    assert set(probes(Places())) == set(Machine.__slots__)


def test_build_probe_describes_this_llama_cpp() -> None:
    found = probes(Places())["build"]()
    assert isinstance(found, BuildFacts)
    assert "CPU" in found.backends
    assert "cpu" in found.built


def test_compiled_features_are_those_of_this_processor() -> None:
    # This llama.cpp was compiled on this machine.
    from turbopilot.llama.library import llama_cpp, start_backend

    start_backend()
    compiled = compiled_features(llama_cpp.llama_print_system_info().decode())
    assert not compiled & processor_facts(Places().host).lacks


@pytest.mark.parametrize(
    ("cpuinfo", "name", "has"),
    [
        ("model name\t: Xeon\nflags\t\t: pni ssse3 avx avx2\n", "Xeon", {"SSE3", "SSSE3", "AVX", "AVX2"}),
        ("Features\t: fp asimd asimddp i8mm\n", "x86_64", {"NEON", "DOTPROD", "MATMUL_INT8"}),
    ],
)  # fmt: skip
def test_features_are_read_from_cpuinfo(
    tmp_path: Path, cpuinfo: str, name: str, has: set[str]
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    found = processor_facts(host(tmp_path))
    assert (found.name, set(found.has)) == (name, has)
    assert found.lacks == FEATURES.keys() - has


def test_features_are_read_from_sysctl(tmp_path: Path) -> None:
    said = "hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\nhw.optional.AdvSIMD: 1\n"
    outputs = {"hw.optional": said, "machdep.cpu.brand_string": "Apple M1\n"}
    found = processor_facts(host(tmp_path, outputs, "Darwin", "arm64"))
    assert (found.name, set(found.has)) == ("Apple M1", {"DOTPROD", "NEON"})
    assert found.lacks == {"MATMUL_INT8"}, "features that macOS does not report are unknown"


def test_features_are_unknown_without_cpuinfo(tmp_path: Path) -> None:
    found = processor_facts(host(tmp_path, system="Windows", machine="AMD64"))
    assert (found.name, found.has, found.lacks) == ("AMD64", frozenset(), frozenset())


def test_disk_probe_sums_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new" / "cache"
    monkeypatch.setenv("TURBOPILOT_CACHE", str(folder))
    probe = probes(Places())["disk"]
    assert probe().files == 0
    assert probe().writable
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_bytes(b"12345")
    (folder / "b").write_bytes(b"123")
    (folder / "link").symlink_to(folder / "b")
    assert probe().files == 8 + os.lstat(folder / "link").st_size
    assert probe().free > 0


class Answering(BaseHTTPRequestHandler):
    """Handler that answers every path with the server's `answer`: status and body."""

    def do_GET(self) -> None:
        status, body = vars(self.server)["answer"]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Answering) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def health(status: str, **more: object) -> bytes:
    return json.dumps({"status": status, "model": "demo", "models": [], **more}).encode()


@pytest.mark.parametrize(
    ("answer", "expected", "used_by"),
    [
        ((200, health("ok")), {"status": "ok", "model": "demo"}, "turbopilot"),
        ((503, health("stalled", reason="slow")), {"status": "stalled", "model": "demo", "reason": "slow"},
         "turbopilot"),
        ((200, b'{"status": "ok"}'), {"error": "the response is not from TurboPilot"}, "another program"),
        ((404, b"<html>"), {"error": "the response is not from TurboPilot"}, "another program"),
        ((200, b"[]"), {"error": "the response is not from TurboPilot"}, "another program"),
    ],
)  # fmt: skip
def test_server_at_a_port_is_recognized(
    server: HTTPServer, answer: tuple[int, bytes], expected: Mapping[str, str], used_by: str
) -> None:
    vars(server)["answer"] = answer
    port = server.server_address[1]
    url = f"http://127.0.0.1:{port}"
    assert server_facts(url) == ServerFacts(url, **expected)
    assert port_facts(port) == PortFacts(port, used_by)  # type: ignore[arg-type]
    local = probes(Places(port=port))["server"]()
    assert local.url == (url if used_by == "turbopilot" else "")


def test_program_that_speaks_no_http_takes_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        assert port_facts(port) == PortFacts(port, "another program")
        thread.join()


def test_unused_port_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert port_facts(port) == PortFacts(port, "")
    assert server_facts(f"http://127.0.0.1:{port}").error
    assert probes(Places(port=port))["server"]() == ServerFacts("")


def test_hub_is_reached_at_its_endpoint(here: InProcess) -> None:
    assert probes(Places())["hub"]().status in range(200, 500)


def test_unreachable_hub_is_reported(here: InProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    here.go_to(f"http://127.0.0.1:{port}")
    found = probes(Places())["hub"]()
    assert found.error
    assert found.status == 0


def test_hub_is_not_asked_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "request_status", raising(AssertionError("a request was sent")))
    found = probes(Places(offline=True))["hub"]()
    assert found == HubFacts(hub.endpoint(), hub.proxy_of(hub.endpoint()), "--offline was given")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ""),
        ({"https_proxy": "http://user:secret@proxy.example:3128/"}, "http://proxy.example:3128/"),
        ({"https_proxy": "http://proxy:1", "no_proxy": "hub.example"}, ""),
        ({"http_proxy": "http://proxy:1"}, ""),
    ],
)
def test_proxy_is_shown_without_its_password(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hub.proxy_of("https://hub.example/x") == expected


def test_yardsticks_measure_at_least_one_round() -> None:
    assert product_flops(0) > 0
    assert blas_name()
    copied = copy_speed(1 << 16, 2, 0)
    assert copied.bandwidth > 0
    assert copied.processor_time >= 0
