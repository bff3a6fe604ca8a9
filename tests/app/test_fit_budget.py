"""Limits of --fit-vram after a trial run: what counts as too much, and the smaller limits for a second file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from quantize.fit import DeviceLimits, Fit, RoundingSensitivity
from turbopilot.app.fit_budget import OnDevicesFit
from turbopilot.app.fit_report import SERVER, FitRow
from turbopilot.bench import Memory, Setup
from turbopilot.llama.log import Buffers
from turbopilot.llama.placement_wish import PlacementWish

MB = 10**6
SETUP = Setup(n_ctx=256, n_batch=64)
NO_BUFFERS = Buffers(0, 0, 0, 0, {}, {})


@pytest.fixture(scope="module")
def fit(demo_gguf: Path) -> Fit:
    return Fit(demo_gguf)


def fitted(fit: Fit, limits: DeviceLimits) -> tuple[OnDevicesFit, FitRow, RoundingSensitivity]:
    budget = OnDevicesFit(fit, limits, SETUP)
    budget.check()
    errors = {u.name: {t: 1.0 / u.n_bytes(t) for t in u.types} for u in fit.units}
    found = RoundingSensitivity(errors, dict.fromkeys(errors, 1.0))
    allocation = budget.allocate(found)
    assert allocation is not None
    return budget, budget.row(fit.preview(allocation), None), found


def measured(row: FitRow, needed: int, *placed: int) -> FitRow:
    names = {f"RPC{i}": n for i, n in enumerate(placed)}
    return replace(row, memory=Memory(0, 0, 0, needed, 0, NO_BUFFERS, {}, names))


def test_buffers_over_the_limit_of_a_device_lead_to_a_smaller_file(fit: Fit) -> None:
    limits = DeviceLimits((6 * MB,), SETUP.need(256))
    budget, row, found = fitted(fit, limits)
    assert row.on_devices is not None
    assert row.on_devices <= 6 * MB
    assert budget.over(row) == 0, "it was not run"
    assert budget.over(measured(row, 80 * MB, 6 * MB)) == 0
    too_much = measured(row, 80 * MB, 6 * MB + 500_000)
    assert budget.over(too_much) == 500_000
    smaller = budget.shrunk(too_much)
    allocation = smaller.allocate(found)
    assert allocation is not None
    again = smaller.row(fit.preview(allocation), None)
    assert again.on_devices is not None
    assert again.on_devices <= row.on_devices - 450_000
    assert smaller.budget.devices == (6 * MB,), "the limit that is shown and served is the user's"


def test_process_over_the_limit_of_the_server_leads_to_a_smaller_file(fit: Fit) -> None:
    limits = DeviceLimits((12 * MB,), SETUP.need(256), total=100 * MB, process=90 * MB)
    budget, row, found = fitted(fit, limits)
    assert row.footprint <= 100 * MB
    too_much = measured(row, 100 * MB - SERVER - 5 * MB + 700_000, 5 * MB)
    assert too_much.measured_footprint == 100 * MB + 700_000
    assert budget.over(too_much) == 700_000
    allocation = budget.shrunk(too_much).allocate(found)
    assert allocation is not None
    assert allocation.tensor_bytes < row.tensor_bytes


def test_run_on_other_devices_decides_nothing(fit: Fit) -> None:
    wish = PlacementWish(tensor_split=(1, 1))
    limits = DeviceLimits((5 * MB, 5 * MB), SETUP.need(256), wish)
    budget, row, _ = fitted(fit, limits)
    assert budget.over(measured(row, 80 * MB, 9 * MB)) == 0
    assert budget.over(measured(row, 80 * MB)) == 0
    assert budget.over(measured(row, 80 * MB, 4 * MB, 5 * MB + 7)) == 7


def test_unused_device_is_skipped(fit: Fit) -> None:
    limits = DeviceLimits((3 * MB, 8 * MB), SETUP.need(256))
    budget, row, _ = fitted(fit, limits)
    assert row.placement is not None
    assert [share.total > 0 for share in row.placement.shares] == [False, True]
    assert budget.over(measured(row, 80 * MB, 7 * MB)) == 0
    assert budget.over(measured(row, 80 * MB, 8 * MB + 1)) == 1
