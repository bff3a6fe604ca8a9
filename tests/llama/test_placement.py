"""Placement of a model's layers, KV cache and output head on devices, for many machines."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turbopilot.llama.device_memory import ContextNeed, ModelParts
from turbopilot.llama.footprint import KvLayout
from turbopilot.llama.geometry import Geometry
from turbopilot.llama.placement import Placement, place, step_down
from turbopilot.llama.placement_wish import DeviceMemory, Machine, PlacementWish

MB, GB = 2**20, 2**30


def model(
    layers: int, each: int, head: int, geometry: Geometry, *, tied: bool = False
) -> ModelParts:
    """Return a model of equal layers; sizes in MiB. The embedding is as large as the head."""
    rest = 0 if tied else head * MB
    return ModelParts(
        geometry,
        (each * MB,) * layers,
        head * MB,
        rest,
        tied=head * MB * tied,
        largest=each * MB // 4,
    )


# 0.3 GB. KV cache: 22.5 KiB for each token.
SMALL = model(30, 8, 56, Geometry(30, 576, 9, 3, 1536, 49152, gated=True, tied=True), tied=True)
# 7 billion weights in Q4: 3.9 GB. KV cache with grouped heads: 128 KiB for each token, 1 GiB for 8192.
SEVEN = model(32, 115, 105, Geometry(32, 4096, 32, 8, 11008, 32000, gated=True))
# The same without grouped heads: 512 KiB for each token.
WIDE = model(32, 115, 105, Geometry(32, 4096, 32, 32, 11008, 32000, gated=True))
# 33 billion weights in Q4: 18.6 GB.
LARGE = model(62, 300, 130, Geometry(62, 7168, 56, 8, 19200, 32256, gated=True))
# 30 billion weights, of which 3 are active; the experts are on the CPU.
EXPERTS = replace(
    model(48, 30, 240, Geometry(48, 2048, 32, 4, 6144, 151936, gated=True)),
    pinned=(("CPU", 15 * GB),),
)

SPLIT, POOL, ONE = KvLayout(4, is_split=True), KvLayout(4), KvLayout()


class Case(NamedTuple):
    """A machine and the expected placement; memory in GiB, and a device with a "r" is a worker's.

    `counts` are the layers of each device, and `n_ctx` is the context that remains.
    """

    name: str
    parts: ModelParts
    devices: tuple[float | str, ...]
    host: float
    contexts: tuple[int, ...]
    layout: KvLayout
    wish: PlacementWish
    counts: tuple[int, ...]
    n_ctx: int
    fits: bool = True


AUTO = PlacementWish()
FULL, HALVED = (8192,), (8192, 4096, 2048)
# fmt: off
CASES = [
    # No device: everything is in main memory, and a default context shrinks with it.
    Case("no device", SEVEN, (), 16, FULL, POOL, AUTO, (), 8192),
    Case("no device, short memory", SEVEN, (), 4.75, HALVED, POOL, AUTO, (), 4096),
    Case("no device, very short memory", SEVEN, (), 1, HALVED, POOL, AUTO, (), 2048, False),
    Case("no device, given context", SEVEN, (), 4.75, FULL, POOL, AUTO, (), 8192, False),
    Case("no device, separate contexts", SEVEN, (), 16, FULL, SPLIT, AUTO, (), 8192),
    # One device, from more than enough to nothing.
    Case("24 GB", SEVEN, (24,), 16, FULL, SPLIT, AUTO, (33,), 8192),
    Case("12 GB", SEVEN, (12,), 16, FULL, SPLIT, AUTO, (33,), 8192),
    Case("8 GB, separate contexts", SEVEN, (8,), 16, FULL, SPLIT, AUTO, (31,), 8192),
    Case("8 GB, one context", SEVEN, (8,), 16, FULL, POOL, AUTO, (33,), 8192),
    Case("6 GB, all but the margin", SEVEN, (6,), 16, FULL, POOL, AUTO, (33,), 8192),
    Case("5 GB", SEVEN, (5,), 16, FULL, POOL, AUTO, (30,), 8192),
    Case("4 GB", SEVEN, (4,), 16, FULL, POOL, AUTO, (23,), 8192),
    Case("2 GB", SEVEN, (2,), 16, FULL, POOL, AUTO, (9,), 8192),
    Case("1 GB", SEVEN, (1,), 16, FULL, POOL, AUTO, (2,), 8192),
    Case("less than the margin", SEVEN, (0.4,), 16, FULL, POOL, AUTO, (0,), 8192),
    Case("a device that reports no memory", SEVEN, (0,), 16, FULL, POOL, AUTO, (0,), 8192),
    Case("small model, small GPU", SMALL, (2,), 8, FULL, SPLIT, AUTO, (31,), 8192),
    Case("small model, full GPU", SMALL, (0.8,), 8, FULL, SPLIT, AUTO, (8,), 8192),
    Case("wide KV cache, 8 GB", WIDE, (8,), 16, FULL, POOL, AUTO, (31,), 8192),
    Case("wide KV cache, 12 GB", WIDE, (12,), 16, FULL, POOL, AUTO, (33,), 8192),
    Case("wide KV cache, separate contexts", WIDE, (12,), 32, FULL, SPLIT, AUTO, (19,), 8192),
    Case("wide KV cache, short context", WIDE, (8,), 16, (2048,), ONE, AUTO, (33,), 2048),
    # Layers go to the CPU before the context shrinks, which only short main memory does.
    Case("8 GB, short main memory", WIDE, (8,), 4, HALVED, POOL, AUTO, (31,), 8192),
    Case("8 GB, very short main memory", WIDE, (8,), 0.5, HALVED, POOL, AUTO, (33,), 4096),
    Case("4 GB, short main memory", SEVEN, (4,), 1.5, HALVED, POOL, AUTO, (26,), 4096),
    Case("4 GB, short main memory, given context", SEVEN, (4,), 1, FULL, POOL, AUTO, (23,), 8192, False),
    # The margin, and a limit.
    Case("no margin", SEVEN, (5.5,), 16, FULL, POOL, PlacementWish(margin=0), (33,), 8192),
    Case("a large margin", SEVEN, (8,), 16, FULL, POOL, PlacementWish(margin=4 * GB), (26,), 8192),
    Case("a limit below what is free", SEVEN, (24,), 16, FULL, POOL, PlacementWish(most=(3 * GB,)), (20,), 8192),
    Case(
        "limits for two devices", SEVEN, (24, 24), 16, FULL, POOL, PlacementWish(most=(3 * GB, 2 * GB)), (19, 13), 8192,
    ),
    Case(
        "one limit for three devices", SEVEN, (24, 24, 24), 16, FULL, POOL, PlacementWish(most=(3 * GB,)),
        (11, 11, 11), 8192,
    ),
    # Several devices: a model that fits on one is not split; the others are filled evenly.
    Case("two equal GPUs", LARGE, (16, 16), 32, FULL, POOL, AUTO, (31, 32), 8192),
    Case("two GPUs, fits on the second", SEVEN, (4, 12), 16, FULL, POOL, AUTO, (0, 33), 8192),
    Case("two GPUs, fits on both", SEVEN, (12, 24), 16, FULL, POOL, AUTO, (0, 33), 8192),
    Case("24 and 8 GB", LARGE, (24, 8), 32, FULL, POOL, AUTO, (63, 0), 8192),
    Case("12 and 8 GB, too little", LARGE, (12, 8), 32, FULL, POOL, AUTO, (34, 22), 8192),
    Case("three GPUs", LARGE, (8, 8, 8), 32, FULL, POOL, AUTO, (21, 21, 21), 8192),
    Case("four GPUs of 6 GB", LARGE, (6, 6, 6, 6), 32, FULL, POOL, AUTO, (15, 16, 16, 16), 8192),
    Case("the last GPU is full", SEVEN, (8, 0.5), 16, FULL, POOL, AUTO, (33, 0), 8192),
    Case("the first GPU is full", SEVEN, (0.5, 8), 16, FULL, POOL, AUTO, (0, 33), 8192),
    Case("a worker and a GPU that fits", SEVEN, ("32r", 8), 16, FULL, POOL, AUTO, (0, 33), 8192),
    Case("a worker and a small GPU", SEVEN, ("32r", 4), 16, FULL, POOL, AUTO, (33, 0), 8192),
    Case("two workers", LARGE, ("12r", "12r"), 8, FULL, POOL, AUTO, (31, 32), 8192),
    # What the user gives.
    Case("no layer", SEVEN, (24,), 16, FULL, POOL, PlacementWish(0), (0,), 8192),
    Case("ten layers", SEVEN, (24,), 16, FULL, POOL, PlacementWish(10), (10,), 8192),
    Case("all layers, although they do not fit", SEVEN, (3,), 16, FULL, POOL, PlacementWish(999), (33,), 8192, False),
    Case("ten layers on two GPUs", SEVEN, (8, 8), 16, FULL, POOL, PlacementWish(10), (5, 5), 8192),
    Case("shares 3 and 1", SEVEN, (8, 8), 16, FULL, POOL, PlacementWish(tensor_split=(3, 1)), (25, 8), 8192),
    Case("shares 1 and 0", SEVEN, (8, 8), 16, FULL, POOL, PlacementWish(tensor_split=(1, 0)), (33, 0), 8192),
    Case(
        "a share of one device alone", SEVEN, (8, 8), 16, FULL, POOL, PlacementWish(tensor_split=(1,)), (33, 0), 8192,
    ),
    Case(
        "shares that fit only in part", LARGE, (16, 8), 32, FULL, POOL, PlacementWish(tensor_split=(1, 1)),
        (23, 22), 8192,
    ),
    Case(
        "shares of a given number", SEVEN, (8, 8), 16, FULL, POOL, PlacementWish(9, tensor_split=(2, 1)), (6, 3), 8192,
    ),
    Case("one device, the largest", SEVEN, (4, 12), 16, FULL, POOL, PlacementWish(split_mode="none"), (0, 33), 8192),
    Case(
        "one device, the given one", SEVEN, (4, 12), 16, FULL, POOL, PlacementWish(split_mode="none", main_gpu=0),
        (23, 0), 8192,
    ),
    Case("rows of two devices", SEVEN, (8, 8), 16, FULL, POOL, PlacementWish(split_mode="row"), (17, 16), 8192),
    # Experts on the CPU.
    Case("experts, 8 GB", EXPERTS, (8,), 32, FULL, POOL, AUTO, (49,), 8192),
    Case("experts, 4 GB", EXPERTS, (4,), 32, FULL, POOL, AUTO, (49,), 8192),
    Case("experts, too little main memory", EXPERTS, (8,), 8, FULL, POOL, AUTO, (49,), 8192, False),
]
# fmt: on


def run(case: Case) -> Placement:
    devices = []
    for i, free in enumerate(case.devices):
        is_remote = isinstance(free, str)
        n = float(free.rstrip("r")) if isinstance(free, str) else free
        devices.append(DeviceMemory(f"D{i}", int(n * GB), is_remote))
    needs = [ContextNeed(n, case.layout) for n in case.contexts]
    return place(case.parts, needs, Machine(tuple(devices), int(case.host * GB)), case.wish)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_parts_go_where_they_should(case: Case) -> None:
    found = run(case)
    assert found.counts == case.counts
    assert found.need.n_ctx == case.n_ctx
    assert found.fits == case.fits
    assert found.need.cache_type == "f16"


def test_table_has_at_least_forty_machines() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


def test_bytes_of_a_device_are_those_of_its_layers_and_head() -> None:
    machine = Machine((DeviceMemory("D0", 4 * GB),), 16 * GB)
    found = place(SEVEN, [ContextNeed(8192, POOL)], machine, PlacementWish(3))
    (share,) = found.shares
    assert (share.layers, share.has_output) == (range(30, 32), True)
    assert share.weights == (2 * 115 + 105) * MB
    assert share.kv == 2 * 32 * MB
    assert found.cpu.layers == range(30)
    assert found.cpu.weights == (30 * 115 + 105) * MB, "the embedding stays in main memory"
    assert found.cpu.kv == 30 * 32 * MB


def test_tied_embedding_is_copied_to_the_device_of_the_head() -> None:
    machine = Machine((DeviceMemory("D0", 4 * GB),), 16 * GB)
    found = place(SMALL, [ContextNeed(2048)], machine, PlacementWish(1))
    assert found.shares[0].weights == 56 * MB
    assert found.cpu.weights == (30 * 8 + 56) * MB


def test_step_down_takes_layers_from_devices_until_none_are_left() -> None:
    machine = Machine((DeviceMemory("D0", 24 * GB),), 16 * GB)
    placement: Placement | None = place(SEVEN, [ContextNeed(8192, POOL)], machine, AUTO)
    seen = []
    while placement is not None:
        seen.append(placement.n_gpu_layers)
        placement = step_down(SEVEN, placement, machine, AUTO)
    assert seen[:4] == [33, 29, 26, 23]
    assert seen[-1] == 0
    assert seen == sorted(set(seen), reverse=True)


def test_devices_are_not_pipelined_with_one_device() -> None:
    """Copies of the inputs are needed only if several devices compute batches one behind the other."""
    need = ContextNeed(32768, ONE)
    one = place(SEVEN, [need], Machine((DeviceMemory("D0", 24 * GB),), GB), AUTO)
    wish = PlacementWish(tensor_split=(1, 1))
    devices = (DeviceMemory("D0", 24 * GB), DeviceMemory("D1", 24 * GB))
    two = place(SEVEN, [need], Machine(devices, GB), wish)
    mask = 2 * 512 * 32768
    assert two.shares[0].compute - one.shares[0].compute == 3 * mask + 6 * 4 * 512 * 4096


parts = st.builds(
    lambda layers, head, tied: ModelParts(
        Geometry(len(layers), 512, 8, 2, 1408, 32000, gated=True), tuple(n * MB for n in layers), head * MB,
        0 if tied else head * MB, tied=head * MB * tied, largest=max(layers) * MB // 4,
    ),
    st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(1, 500), st.booleans(),
)  # fmt: skip
memories = st.lists(st.integers(0, 4000), max_size=4)
needs = st.builds(
    lambda n_ctx, layout, kind: ContextNeed(n_ctx, layout, kind),
    st.sampled_from((512, 2048, 8192)),
    st.sampled_from((SPLIT, POOL, ONE)),
    st.sampled_from(("f16", "q8_0")),
)
wishes = st.builds(
    lambda n, margin, split: PlacementWish(n, margin * MB, tensor_split=split),
    st.none() | st.integers(0, 50),
    st.integers(0, 1000),
    st.just(()) | st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 3)),
)


def on(free: list[int], host: int = 64) -> Machine:
    devices = (DeviceMemory(f"D{i}", n * MB, is_remote=i == 0) for i, n in enumerate(free))
    return Machine(tuple(devices), host * GB)


@settings(max_examples=300, deadline=None)
@given(parts, memories, needs, wishes)
def test_every_layer_is_somewhere_exactly_once(
    parts: ModelParts, free: list[int], need: ContextNeed, wish: PlacementWish
) -> None:
    found = place(parts, [need], on(free), wish)
    everywhere = (found.cpu, *found.shares)
    layers = [i for share in everywhere for i in share.layers]
    assert layers == list(range(len(parts.layers)))
    assert sum(share.has_output for share in everywhere) == 1
    assert sum(found.counts) == found.n_gpu_layers
    weights = sum(parts.layers) + parts.input + parts.output
    copied = 0 if found.cpu.has_output else parts.tied
    assert sum(share.weights for share in everywhere) == weights + copied
    kv = sum(share.kv for share in everywhere)
    assert 0 <= need.kv_bytes(parts) - kv < len(parts.layers)


@settings(max_examples=300, deadline=None)
@given(parts, memories, needs, wishes)
def test_no_device_gets_more_than_its_memory_without_the_margin(
    parts: ModelParts, free: list[int], need: ContextNeed, wish: PlacementWish
) -> None:
    found = place(parts, [need], on(free), replace(wish, n_gpu_layers=None))
    for share in found.shares:
        assert share.total == 0 or share.total <= share.free - wish.margin


@settings(max_examples=300, deadline=None)
@given(parts, memories.filter(bool), needs, st.data())
def test_more_memory_never_means_fewer_layers_on_devices(
    parts: ModelParts, free: list[int], need: ContextNeed, data: st.DataObject
) -> None:
    i = data.draw(st.integers(0, len(free) - 1))
    more = [*free]
    more[i] += data.draw(st.integers(1, 2000))
    before, after = (place(parts, [need], on(m), AUTO).n_gpu_layers for m in (free, more))
    assert after >= before


@settings(max_examples=200, deadline=None)
@given(parts, memories, st.integers(0, 20), st.integers(0, 20))
def test_more_main_memory_never_means_a_shorter_context(
    parts: ModelParts, free: list[int], host: int, more: int
) -> None:
    contexts = [ContextNeed(n, SPLIT) for n in (8192, 4096, 2048)]
    before, after = (place(parts, contexts, on(free, n), AUTO) for n in (host, host + more))
    assert after.need.n_ctx >= before.need.n_ctx
