"""Types within limits for devices and for the whole server, with made-up sensitivities."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantize.fit import DeviceFit, DeviceLimits, Fit, RoundingSensitivity
from quantize.fit.allocate import TypeChoice, allocate_within
from quantize.fit.device_limits import with_types
from turbopilot.base.errors import InvalidInput
from turbopilot.formats.ggml_types import BLOCKS
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.device_memory import ContextNeed
from turbopilot.llama.placement_wish import PlacementWish

MB = 10**6
_CHOICE = st.builds(TypeChoice, st.integers(1, 40), st.floats(0, 10, allow_nan=False))
_UNITS = st.lists(
    st.tuples(st.lists(_CHOICE, min_size=1, max_size=4), st.sampled_from((0, 1, 2))), min_size=1, max_size=5
)  # fmt: skip


@given(_UNITS, st.integers(0, 160), st.integers(0, 160))
def test_two_limits_hold_and_the_loss_is_near_the_optimum(
    drawn: list[tuple[list[TypeChoice], int]], room: int, room_inside: int
) -> None:
    """Compare with brute force. A unit counts for the second limit 0 times, or once; then it may count twice in all."""
    units = [[TypeChoice(max(1, n) * c.n_bytes, c.loss) for c in choices] for choices, n in drawn]
    inside = [choices if n else None for choices, n in drawn]

    def fits(chosen: tuple[int, ...] | list[int]) -> bool:
        everywhere = sum(u[i].n_bytes for u, i in zip(units, chosen, strict=True))
        part = sum(u[i].n_bytes for u, i in zip(inside, chosen, strict=True) if u)
        return everywhere <= room and part <= room_inside

    found = allocate_within(units, inside, room, room_inside)
    if found is not None:
        assert fits(found)
        losses = [
            sum(u[i].loss for u, i in zip(units, chosen, strict=True))
            for chosen in itertools.product(*(range(len(u)) for u in units))
            if fits(chosen)
        ]
        loss = sum(u[i].loss for u, i in zip(units, found, strict=True))
        steps = [max(c.loss for c in u) - min(c.loss for c in u) for u in units]
        assert loss <= min(losses) + 2 * max(steps) + 1e-9


@given(_UNITS)
def test_second_limit_that_is_large_enough_changes_nothing(
    drawn: list[tuple[list[TypeChoice], int]],
) -> None:
    units = [choices for choices, _ in drawn]
    most = sum(max(c.n_bytes for c in u) for u in units)
    found = allocate_within(units, units, most, most)
    assert found is not None
    assert [u[i].loss for u, i in zip(units, found, strict=True)] == [
        min(c.loss for c in u) for u in units
    ]


@pytest.fixture(scope="module")
def fit(demo_gguf: Path) -> Fit:
    return Fit(demo_gguf)


def made_up(fit: Fit) -> RoundingSensitivity:
    """Return losses that fall with the bits of a type, and differ by matrix."""
    errors = {
        u.name: {t: 4.0 ** (-8 * BLOCKS[t][1] / BLOCKS[t][0]) for t in u.types} for u in fit.units
    }
    weight = {u.name: 1.0 + i % 5 for i, u in enumerate(fit.units)}
    return RoundingSensitivity(errors, weight)


def limits(*sizes: int, n_ctx: int = 256, **more: object) -> DeviceLimits:
    return DeviceLimits(sizes, ContextNeed(n_ctx, n_batch=64, n_outputs=20), **more)  # type: ignore[arg-type]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.integers(2 * MB, 16 * MB), min_size=1, max_size=3),
    st.none() | st.integers(4 * MB, 40 * MB),
    st.none() | st.integers(1, 5),
    st.sampled_from((256, 1024)),
)
def test_chosen_types_are_within_every_limit(
    fit: Fit, sizes: list[int], total: int | None, layers: int | None, n_ctx: int
) -> None:
    given_limits = limits(*sizes, n_ctx=n_ctx, total=total, process=MB, wish=PlacementWish(layers))
    devices, sensitivity = DeviceFit(fit, given_limits), made_up(fit)
    found = devices.allocate(sensitivity)
    if found is None:
        assert not given_limits.holds(devices.header(devices.smallest))
        return
    header = devices.header(found.types)
    assert header.tensor_bytes == found.tensor_bytes
    placement = given_limits.placement(header)
    assert placement.n_gpu_layers == (layers or 5)
    for share, size in zip(placement.shares, sizes, strict=True):
        assert share.total <= size
    if total is not None:
        assert MB + placement.cpu.total + sum(s.total for s in placement.shares) <= total


def test_more_device_memory_gives_a_smaller_loss(fit: Fit) -> None:
    losses = []
    for size in range(4 * MB, 12 * MB, MB):
        found = DeviceFit(fit, limits(size)).allocate(made_up(fit))
        assert found is not None
        losses.append(found.loss)
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 2 * losses[-1]


def test_almost_all_of_the_device_is_used(fit: Fit) -> None:
    given_limits = limits(6 * MB)
    devices = DeviceFit(fit, given_limits)
    found = devices.allocate(made_up(fit))
    assert found is not None
    (share,) = given_limits.placement(devices.header(found.types)).shares
    assert 0.97 * 6 * MB < share.total <= 6 * MB


def test_fewer_layers_on_the_device_leave_more_bits_for_each(fit: Fit) -> None:
    def bytes_of_last_layer(layers: int) -> int:
        wish = PlacementWish(layers)
        devices = DeviceFit(fit, limits(4 * MB, wish=wish))
        found = devices.allocate(made_up(fit))
        assert found is not None
        return sum(u.n_bytes(found.types[u.name]) for u in fit.units if u.layer == 3)

    assert bytes_of_last_layer(2) > bytes_of_last_layer(5)


def test_tensors_in_main_memory_are_at_most_q8_0_without_a_limit_for_the_server(fit: Fit) -> None:
    found = DeviceFit(fit, limits(64 * MB)).allocate(made_up(fit))
    assert found is not None
    assert found.types["token_embd.weight"] == "Q8_0"
    assert found.types["blk.0.ffn_up.weight"] == "F16"
    both = DeviceFit(fit, limits(64 * MB, total=128 * MB)).allocate(made_up(fit))
    assert both is not None
    assert both.types["token_embd.weight"] == "F16"


def test_smallest_sizes_and_most_layers_are_exact(fit: Fit) -> None:
    tight = limits(2 * MB, MB, wish=PlacementWish(tensor_split=(2, 1)))
    devices = DeviceFit(fit, tight)
    header = devices.header(devices.smallest)
    assert devices.allocate(made_up(fit)) is None
    least = tight.least_sizes(header)
    assert replace(tight, sizes=least).holds(header)
    slightly_less = tuple(n * 99 // 100 for n in least)
    assert not replace(tight, sizes=slightly_less).holds(header)
    one = limits(3 * MB)
    n = one.most_layers(header)
    assert 0 < n < 5
    assert one.placement(header, n).fits
    assert not one.placement(header, n + 1).fits


def test_unknown_device_of_an_override_is_rejected() -> None:
    with pytest.raises(InvalidInput, match="--override-tensor CUDA0"):
        limits(MB, wish=PlacementWish(tensor_overrides=(("ffn", "CUDA0"),)))
    named = limits(MB, wish=PlacementWish(names=("CUDA0",), tensor_overrides=(("ffn", "CUDA0"),)))
    assert named.names == ("CUDA0",)
    assert limits(MB, MB, MB).names == ("GPU0", "GPU1", "GPU2")


def test_tensors_kept_in_main_memory_do_not_count_for_the_device(fit: Fit) -> None:
    wish = PlacementWish(tensor_overrides=((r"ffn_(up|down)", "CPU"),))
    size = 4 * MB
    found = DeviceFit(fit, limits(size, wish=wish)).allocate(made_up(fit))
    assert found is not None
    assert found.types["blk.1.ffn_up.weight"] == "Q8_0"
    without = DeviceFit(fit, limits(size)).allocate(made_up(fit))
    assert without is not None
    assert found.loss < without.loss


def test_header_with_other_types_has_their_sizes(demo_gguf: Path) -> None:
    header = read_gguf(demo_gguf)
    name = "blk.0.ffn_up.weight"
    changed = with_types(header, {name: "Q8_0"})
    (before,), (after,) = ([t for t in h.tensors if t.name == name] for h in (header, changed))
    assert (after.type_name, after.n_bytes) == ("Q8_0", before.n_weights * 34 // 32)
    assert changed.tensor_bytes == header.tensor_bytes - before.n_bytes + after.n_bytes
