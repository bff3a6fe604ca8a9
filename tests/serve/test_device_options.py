"""Options for devices: values, defaults, and errors that name the option."""

from __future__ import annotations

import pytest

from serve.device_options import DeviceOptions, MainMemoryOptions
from serve.options import read_settings
from turbopilot.base.errors import InvalidInput
from turbopilot.base.option_values import ALL_LAYERS
from turbopilot.llama.devices import Device, choose_devices
from turbopilot.llama.placement_wish import DEFAULT_MARGIN, PlacementWish


def options(**given: object) -> DeviceOptions:
    return read_settings(DeviceOptions, given)


def test_default_places_as_many_layers_as_fit_on_all_devices() -> None:
    wish = options().wish
    assert wish == PlacementWish(None, DEFAULT_MARGIN)
    assert DEFAULT_MARGIN == 512 * 2**20


@pytest.mark.parametrize(("text", "n"), [("auto", None), ("all", ALL_LAYERS), ("0", 0), ("7", 7)])
def test_layers_are_a_number_or_all_or_auto(text: str, n: int | None) -> None:
    assert options(n_gpu_layers=text).n_gpu_layers == n


def test_lists_may_be_repeated_or_have_commas() -> None:
    given = options(
        device=["CUDA0, CUDA1", "RPC0"], tensor_split=["3,1"], rpc=["a:1", "b:2"], gpu_memory=["8GiB"],
        override_tensor=["ffn_.*_exps=CPU", r"blk\.1\.=CUDA1"], gpu_margin="0",
    )  # fmt: skip
    assert given.names == ("CUDA0", "CUDA1", "RPC0")
    assert given.wish.tensor_split == (3.0, 1.0)
    assert given.wish.workers == ("a:1", "b:2")
    assert given.wish.most == (8 * 2**30,)
    assert given.wish.margin == 0
    assert given.wish.tensor_overrides == (("ffn_.*_exps", "CPU"), (r"blk\.1\.", "CUDA1"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_gpu_layers": "many"}, "--ngl many"),
        ({"n_gpu_layers": "-1"}, "--ngl -1"),
        ({"gpu_margin": "much"}, "--gpu-margin much"),
        ({"gpu_memory": ["8GB,x"]}, "--gpu-memory x"),
        ({"main_gpu": "-1"}, "--main-gpu -1"),
        ({"split_mode": "tensor"}, "--split-mode tensor"),
        ({"tensor_split": ["1,b"]}, "--tensor-split b: not a number"),
        ({"tensor_split": ["0,0"]}, "--tensor-split: every share is 0"),
        ({"override_tensor": ["exps"]}, "--override-tensor exps: not PATTERN=DEVICE"),
        ({"override_tensor": ["(=CPU"]}, r"--override-tensor \(: not a regular expression"),
    ],
)
def test_wrong_value_is_refused_with_its_option(given: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        options(**given)


def test_wrong_numa_strategy_is_refused() -> None:
    with pytest.raises(InvalidInput, match="--numa both"):
        read_settings(MainMemoryOptions, {"numa": "both"})


FOUND = (Device("RPC0", "host:1", 9), Device("CUDA0", "RTX", 8), Device("CUDA1", "RTX", 7))


def test_devices_are_chosen_by_name_in_the_given_order() -> None:
    assert choose_devices(FOUND, ()) == FOUND
    assert choose_devices(FOUND, ("cuda1", "RPC0", "CUDA1")) == (FOUND[2], FOUND[0])
    assert choose_devices(FOUND, ("none",)) == ()


def test_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="--device CUDA7: no such device") as e:
        choose_devices(FOUND, ("CUDA7",))
    assert "CUDA0" in e.value.hint
    with pytest.raises(InvalidInput, match="--device CUDA0") as e:
        choose_devices((), ("CUDA0",))
    assert "none that llama.cpp can use" in e.value.hint
