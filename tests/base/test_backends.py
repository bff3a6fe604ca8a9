"""The backend to compile llama.cpp for, and agreement of everything that names backends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.base.test_graphics import host
from turbopilot.base.backends import (
    BACKENDS,
    BY_NAME,
    Backend,
    Reinstallation,
    choose_backend,
    is_built,
)
from turbopilot.base.graphics import AMD, APPLE, INTEL, NVIDIA, GraphicsCard

ROOT = Path(__file__).parents[2]


def card(vendor: str, driver: str = "driver 1") -> GraphicsCard:
    return GraphicsCard(vendor, "a card", driver)


@pytest.mark.parametrize(
    ("vendors", "tools", "expected", "missing"),
    [
        ([], [], "cpu", ()),
        ([], ["nvcc", "glslc"], "cpu", ()),
        ([APPLE], [], "metal", ()),
        ([NVIDIA], ["nvcc"], "cuda", ()),
        ([NVIDIA], ["glslc"], "vulkan", ("cuda",)),
        ([NVIDIA], [], "cpu", ("cuda", "vulkan")),
        ([AMD], ["hipconfig", "glslc"], "hip", ()),
        ([AMD], ["glslc", "nvcc"], "vulkan", ("hip",)),
        ([INTEL], ["icpx"], "sycl", ()),
        ([INTEL], [], "cpu", ("sycl", "vulkan")),
        ([INTEL, NVIDIA], ["nvcc"], "cuda", ()),
    ],
)
def test_backend_is_chosen_by_hardware_and_tools(
    tmp_path: Path, vendors: list[str], tools: list[str], expected: str, missing: tuple[str, ...]
) -> None:
    found = choose_backend([card(v) for v in vendors], host(tmp_path, dict.fromkeys(tools, "")))
    assert found.backend.name == expected
    assert (
        tuple(b.name for b in BACKENDS if f"for {b.name}, install {b.get_tools}" in found.missing)
        == missing
    )


def test_gpu_without_a_driver_is_not_compiled_for(tmp_path: Path) -> None:
    found = choose_backend([card(NVIDIA, driver="")], host(tmp_path, {"nvcc": ""}))
    assert (found.backend.name, found.why) == ("cpu", "no GPU that can be used")


def test_other_gpu_with_a_render_node_uses_vulkan(tmp_path: Path) -> None:
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/renderD128").touch()
    assert choose_backend([], host(tmp_path, {"glslc": ""})).backend.name == "vulkan"


@pytest.mark.parametrize(
    ("files", "built"),
    [
        (["libggml-cpu.so", "libggml-base.so"], {"cpu"}),
        (["libggml-cpu.so", "libggml-cuda.so"], {"cpu", "cuda"}),
        (["libggml-cpu.dylib", "libggml-metal.dylib"], {"cpu", "metal"}),
        (["libggml-cpu-haswell.so", "libggml-cpu-zen4.so"], {"cpu", "portable"}),
        (["libggml-cpu-zen4.so", "libggml-cuda.so"], {"cpu", "cuda", "portable", "portable-cuda"}),
        ([], set()),
    ],
)
def test_libraries_show_the_backends(tmp_path: Path, files: list[str], built: set[str]) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert {b.name for b in BACKENDS if is_built(b.name, tmp_path)} == built


def asked(*question: str, **env: str) -> str:
    """Return the answer of the script that venv.sh asks."""
    command = [
        sys.executable,
        "-S",
        "scripts/lib/backend.py",
        *question,
    ]  # -S: no installed packages
    environment = {"PATH": "/usr/bin:/bin", **env}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_installation_script_knows_every_backend(backend: Backend) -> None:
    assert asked("choose", TURBOPILOT_BACKEND=backend.name) == backend.name
    assert asked("setup", backend.name) == backend.setup
    script = f". scripts/lib/venv.sh && lean_cmake_args {backend.name}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(backend.cmake) <= set(done.stdout.split())


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        asked("choose", TURBOPILOT_BACKEND="cdua")
    assert "expected one of" in raised.value.stderr
    assert all(name in raised.value.stderr for name in BY_NAME)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_documentation_has_the_pip_line_of_every_backend(backend: Backend) -> None:
    locked = (ROOT / "requirements/run.txt").read_text("utf-8")
    version = locked.partition("llama-cpp-python==")[2].split()[0]
    line = Reinstallation(backend, "python", version).shell
    document = (ROOT / "docs/install.md").read_text("utf-8")
    assert line in document.splitlines()
    assert f"| `{backend.name}` |" in document


def test_pip_line_can_be_pasted_into_a_shell() -> None:
    line = Reinstallation(BY_NAME["sycl"], "/opt/my env/python", "0.3.36").shell
    show = 'printf "%s\\n" "$CMAKE_ARGS" "$@"'
    script = line.replace("'/opt/my env/python' -m pip", f"sh -c '{show}' sh")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    options, *words = done.stdout.splitlines()
    assert options.startswith("-DGGML_SYCL=ON -DCMAKE_C_COMPILER=icx -DCMAKE_CXX_COMPILER=icpx ")
    assert words[-4:] == [
        "--no-deps",
        "--no-binary",
        "llama-cpp-python",
        "llama-cpp-python==0.3.36",
    ]
