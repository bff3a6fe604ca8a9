"""llama.cpp's library: its own ggml, and backends that are files."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from turbopilot.llama import library
from turbopilot.llama.devices import backends
from turbopilot.llama.library import ggml, llama_cpp, start_backend


def mapped_file(address: int) -> str:
    """Return the file that is mapped at an address of this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(x, 16) for x in line.split()[0].split("-"))
        if start <= address < end:
            return line.split()[-1]
    raise AssertionError("the address is not mapped")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ggml_is_the_one_that_libllama_uses() -> None:
    # A wheel has both libggml.so and libggml.so.0; libllama.so needs the second one by its name.
    start_backend()
    address = ctypes.cast(ggml.ggml_backend_reg_count, ctypes.c_void_p).value
    assert address
    needed = Path(llama_cpp.llama_cpp._lib._name).read_bytes()
    assert re.search(re.escape(Path(mapped_file(address)).name.encode()) + b"\0", needed)


def test_loaded_backends_have_names() -> None:
    start_backend()
    assert "CPU" in backends()


@pytest.mark.parametrize(("n_loaded", "expected"), [(0, 1), (1, 0)])
def test_backends_that_are_files_are_loaded_from_the_package(
    monkeypatch: pytest.MonkeyPatch, n_loaded: int, expected: int
) -> None:
    folders: list[bytes] = []
    fake = SimpleNamespace(
        ggml_backend_reg_count=lambda: n_loaded, ggml_backend_load_all_from_path=folders.append
    )
    monkeypatch.setattr(library, "ggml", fake)
    start_backend()
    assert folders == [os.fsencode(Path(llama_cpp.__file__).parent / "lib")] * expected
