"""Memory that models may take: main memory and devices, its text, and the best type that fits there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turbopilot import catalog
from turbopilot.base.errors import InvalidInput
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama import fitting, model_memory
from turbopilot.llama.device_memory import model_parts, predicted_parts
from turbopilot.llama.devices import Device
from turbopilot.llama.geometry import header_geometry, weights_bytes
from turbopilot.llama.model_memory import ModelMemory, usable_memory
from turbopilot.llama.placement_wish import DeviceMemory, PlacementWish

ROOT = Path(__file__).parents[2]
GB = 10**9


def gpus(*free: float) -> tuple[DeviceMemory, ...]:
    return tuple(DeviceMemory(f"CUDA{i}", int(n * GB)) for i, n in enumerate(free))


@pytest.mark.parametrize(
    ("main", "free", "best"),
    [
        (3, (), ""),
        (9, (), "Q4_K_M"),
        (16, (), "Q8_0"),
        (3, (8,), "Q4_K_M"),
        (3, (24,), "Q8_0"),
        (3, (6, 6), "Q8_0"),
        (3, (0.4,), ""),
        (5.5, (4,), "Q4_K_M"),
        (5.5, (8,), "Q8_0"),
        (0.1, (24,), ""),
    ],
)  # fmt: skip
def test_best_type_uses_main_memory_and_gpus(
    main: float, free: tuple[float, ...], best: str
) -> None:
    """Judge a model of 6.7 billion weights, which takes 7.2 GB as Q8_0."""
    model = catalog.find("deepseek-coder-6.7b")
    assert model is not None
    assert model.best_type(ModelMemory(int(main * GB), gpus(*free))) == best


def test_layers_that_the_user_keeps_in_main_memory_do_not_count_for_the_gpu() -> None:
    model = catalog.find("deepseek-coder-6.7b")
    assert model is not None
    memory = ModelMemory(3 * GB, gpus(24), PlacementWish(0))
    assert model.best_type(memory) == ""
    assert model.best_type(ModelMemory(3 * GB, gpus(24), PlacementWish(most=(2 * GB,)))) == ""


ORDER = ["", "Q4_0", "Q4_K_M", "Q8_0"]
SIZES = st.floats(0.1, 40)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(catalog.MODELS), SIZES, st.lists(SIZES, max_size=2), SIZES)
def test_more_memory_never_gives_a_less_accurate_type(
    model: catalog.KnownModel, main: float, free: list[float], more: float
) -> None:
    best = model.best_type(ModelMemory(int(main * GB), gpus(*free)))
    with_more_main = model.best_type(ModelMemory(int((main + more) * GB), gpus(*free)))
    with_more_gpu = model.best_type(ModelMemory(int(main * GB), gpus(*free, more)))
    assert ORDER.index(with_more_main) >= ORDER.index(best)
    assert ORDER.index(with_more_gpu) >= ORDER.index(best)


def test_predicted_parts_are_near_those_of_a_file(demo_q4_0: Path) -> None:
    header = read_gguf(demo_q4_0)
    real = model_parts(header)
    predicted = predicted_parts(header_geometry(header), header.n_weights, "Q4_0")
    assert len(predicted.layers) == len(real.layers)
    for there, here in zip(real.layers, predicted.layers, strict=True):
        assert here == pytest.approx(there, rel=0.02)
    assert predicted.input == real.input
    assert predicted.tied == real.tied
    assert predicted.largest == real.largest


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0"])
def test_predicted_parts_add_up_to_the_predicted_size(name: str) -> None:
    for model in catalog.MODELS:
        parts = predicted_parts(model.geometry, model.parameters, name)
        whole = weights_bytes(model.geometry, model.parameters, name)
        assert whole - len(parts.layers) < sum(parts.layers) + parts.input + parts.output <= whole


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        ((), "18.0 GB of main memory"),
        (gpus(24), "18.0 GB of main memory and 1 GPU with 24.0 GB"),
        (gpus(24, 24), "18.0 GB of main memory and 2 GPUs with 24.0 GB each"),
        (gpus(24, 8), "18.0 GB of main memory and 2 GPUs with 24.0 GB and 8.0 GB"),
        (
            (*gpus(24), DeviceMemory("RPC0", 8 * GB, is_remote=True)),
            "18.0 GB of main memory and 1 GPU with 24.0 GB and 1 remote device with 8.0 GB",
        ),
    ],
)
def test_text_names_main_memory_and_devices(devices: tuple[DeviceMemory, ...], text: str) -> None:
    assert str(ModelMemory(18 * GB, devices)) == text


def test_llama_cpp_is_loaded_only_if_it_was_compiled_for_a_gpu() -> None:
    code = (
        "import sys; from turbopilot.base import backends; from turbopilot.llama import model_memory\n"
        "model_memory.supports_gpus = lambda: sys.argv[1] == 'gpu'\n"
        "print(model_memory.usable_memory().devices, 'llama_cpp' in sys.modules)"
    )
    for build, loaded in (("cpu", False), ("gpu", True)):
        done = subprocess.run(
            [sys.executable, "-c", code, build],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        assert done.stdout.split()[-1] == str(loaded)


def test_devices_are_those_that_the_server_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (
        Device("CUDA0", "RTX", 24 * GB),
        Device("Vulkan1", "integrated", 8 * GB, shares_main_memory=True),
    )
    asked: list[PlacementWish] = []

    def find(wish: PlacementWish) -> tuple[Device, ...]:
        asked.append(wish)
        return found

    monkeypatch.setattr(fitting, "find_devices", find)
    monkeypatch.setattr(model_memory, "supports_gpus", lambda: True)
    wish = PlacementWish(names=("CUDA0",))
    memory = usable_memory(wish)
    assert asked == [wish]
    assert memory.devices == gpus(24), "a GPU that shares the main memory adds none"
    assert "three quarters of this machine's" in str(memory)


def test_workers_count_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(wish: PlacementWish) -> tuple[Device, ...]:
        raise InvalidInput(wish.workers[0])

    monkeypatch.setattr(fitting, "find_devices", find)
    monkeypatch.setattr(model_memory, "supports_gpus", lambda: False)
    with pytest.raises(InvalidInput, match="host:1"):
        usable_memory(PlacementWish(workers=("host:1",)))
    assert usable_memory().devices == ()
