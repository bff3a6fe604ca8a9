"""Allocation of types, compared with brute force, with written files, and on the bundled model."""

from __future__ import annotations

import itertools
import re
import shutil
import unicodedata
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize import QuantizeOptions, find_recipe, plan, quantize
from quantize.fit import CANDIDATES, Fit, MeasureOptions
from quantize.fit.allocate import TypeChoice, allocate
from quantize.fit.fitting import overrides, recipe_of
from quantize.fit.probed_model import ProbedModel
from quantize.fit.rounding import Rows, relative_error
from quantize.fit.sensitivity import RoundingSensitivity, from_probes
from quantize.fit.units import Unit, groups, units_of
from turbopilot.base.errors import QuantizationError
from turbopilot.corpus import calibration_text
from turbopilot.formats.gguf.edit import set_metadata
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.placement_wish import PlacementWish
from turbopilot.llama.rounding import Rounding
from turbopilot.llama.text_normalizer import NORMALIZER_KEY

_CHOICE = st.builds(TypeChoice, st.integers(1, 40), st.floats(0, 10, allow_nan=False))


@given(
    units=st.lists(st.lists(_CHOICE, min_size=1, max_size=4), min_size=1, max_size=5),
    room=st.integers(0, 160),
)
def test_allocation_is_near_the_optimum(units: list[list[TypeChoice]], room: int) -> None:
    """Compare with brute force: the greedy solution may lose at most the saving of one step."""
    fitting = [
        sum(c.loss for c in picked)
        for picked in itertools.product(*units)
        if sum(c.n_bytes for c in picked) <= room
    ]
    chosen = allocate(units, room)
    if chosen is None:
        assert not fitting
        return
    picked = [choices[i] for choices, i in zip(units, chosen, strict=True)]
    assert sum(c.n_bytes for c in picked) <= room
    one_step = max(max(c.loss for c in u) - min(c.loss for c in u) for u in units)
    assert sum(c.loss for c in picked) <= min(fitting) + one_step + 1e-9


@given(units=st.lists(st.lists(_CHOICE, min_size=1, max_size=4), min_size=1, max_size=5))
def test_unlimited_room_gives_the_smallest_loss(
    units: list[list[TypeChoice]],
) -> None:
    chosen = allocate(units, sum(max(c.n_bytes for c in u) for u in units))
    assert chosen is not None
    for choices, i in zip(units, chosen, strict=True):
        assert choices[i].loss == min(c.loss for c in choices)


def test_remaining_bytes_are_spent() -> None:
    """Take a choice above the hull if the next choice on the hull is too large."""
    unit = [TypeChoice(10, 9.0), TypeChoice(15, 8.0), TypeChoice(30, 0.0)]
    assert allocate([unit], 29) == [1]
    assert allocate([unit], 30) == [2]


def unit(name: str, role: str, layer: int) -> Unit:
    return Unit(name, (256, 8), role, layer, ("Q4_K", "Q6_K", "Q8_0"))


UNITS = [
    *(unit(f"blk.{i}.{role}.weight", role, i) for i in range(11) for role in ("attn_q", "attn_q_norm")),
    unit("token_embd.weight", "token_embd", -1),
]  # fmt: skip


@pytest.mark.parametrize("n_bands", [1, 2, 4, 11])
def test_groups_are_bands_of_a_role(n_bands: int) -> None:
    found = groups(UNITS, n_bands)
    assert sorted(u.name for part in found for u in part) == sorted(u.name for u in UNITS)
    assert len(found) == 2 * n_bands + 1
    for part in found:
        layers = [u.layer for u in part]
        assert len({u.role for u in part}) == 1
        assert layers == list(range(layers[0], layers[0] + len(layers)))
    sizes = [len(part) for part in found if part[0].layer >= 0]
    assert max(sizes) - min(sizes) <= 1


@given(kinds=st.lists(st.sampled_from(UNITS[0].types), min_size=len(UNITS), max_size=len(UNITS)))
def test_overrides_give_each_matrix_its_allocated_type(kinds: list[str]) -> None:
    types = {u.name: kind for u, kind in zip(UNITS, kinds, strict=True)}
    found = overrides(UNITS, types)
    for u in UNITS:
        matching = [o.type_name for o in found if re.search(o.pattern, u.name)]
        assert matching == [types[u.name]]


def test_file_type_is_the_type_with_the_most_bytes() -> None:
    assert recipe_of(UNITS, {u.name: "Q4_K" for u in UNITS}).name == "Q4_K_M"
    assert recipe_of(UNITS, {u.name: "F16" for u in UNITS}).name == "F16"
    mixed = {u.name: "Q8_0" if i < 12 else "Q4_K" for i, u in enumerate(UNITS)}
    assert recipe_of(UNITS, mixed).name == "Q8_0"


def test_units_are_the_matrices_with_their_usable_types(demo_gguf: Path) -> None:
    preview = plan(demo_gguf, "Q4_0")
    blind = units_of(preview, CANDIDATES, frozenset())
    seeing = units_of(preview, CANDIDATES, frozenset(u.name for u in blind))
    assert {u.name for u in blind} == {
        t.name
        for t in read_gguf(demo_gguf).tensors
        if len(t.shape) == 2 and t.name.endswith("weight")
    }
    for u, v in zip(blind, seeing, strict=True):
        assert [u.n_bytes(t) for t in u.types] == sorted(u.n_bytes(t) for t in u.types)
        assert not {"IQ1_M", "IQ2_XXS", "IQ3_XXS"} & set(u.types)
        assert {"IQ1_M", "IQ2_XXS", "IQ3_XXS"} <= set(v.types) or v.shape[0] % 256
        assert {"Q4_0", "Q8_0", "F16"} <= set(u.types)


def ggml() -> Rounding:
    return Rounding()


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_1", "Q8_0", "Q3_K_S", "IQ4_NL", "F16"])
def test_rounding_matches_the_quantized_file(kind: str, demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    quantize(demo_gguf, out, kind, QuantizeOptions(pure=True))
    before, after = ({t.name: t for t in read_gguf(p).tensors} for p in (demo_gguf, out))
    reader = {t.name: t for t in gguf.GGUFReader(out).tensors}
    rounding = ggml()
    compared = 0
    for name, tensor in after.items():
        if len(tensor.shape) != 2 or tensor.type_name == "F32":
            continue
        rows = Rows(before[name]).take(np.arange(5))
        theirs = gguf.dequantize(reader[name].data[:5], reader[name].tensor_type)
        assert np.array_equal(rounding.rounded(rows, tensor.type_name), theirs), name
        compared += tensor.type_name == kind.removesuffix("_S")
    assert compared > 3


def test_relative_error_is_weighted_by_importance() -> None:
    rows = np.array([[1.0, 2.0]], np.float32)
    off = np.array([[1.5, 2.0]], np.float32)
    assert relative_error(rows, rows, None) == 0
    assert relative_error(rows, off, None) == pytest.approx(0.25 / 5)
    weighed = relative_error(rows, off, np.array([4.0, 1.0], np.float32))
    assert weighed == pytest.approx(1.0 / 8)


def test_sensitivities_are_computed_from_measured_groups() -> None:
    errors = {
        "a": {"Q4_K": 0.1, "Q8_0": 0.01},
        "b": {"Q4_K": 0.3, "Q8_0": 0.03},
        "c": {"Q4_K": 0.1, "Q8_0": 0.0},
        "unmeasured": {"Q4_K": 0.2},
    }
    found = from_probes({
        "errors": errors, "probed": dict.fromkeys("abc", "Q4_K"), "positions": 7, "seconds": 1.5, "together": 2.0,
        "groups": [{"names": ["a", "b"], "kl": 0.8}, {"names": ["c"], "kl": 0.0}],
    })  # fmt: skip
    assert found.measured
    assert (found.n_groups, found.positions) == (2, 7)
    # a and b: c = 0.8 / 0.4. Rounding matrix "c" changed nothing: its weight is small, but not zero.
    assert found.weight["a"] == found.weight["b"] == pytest.approx(2.0)
    assert 0 < found.weight["c"] < 0.01
    assert found.weight["unmeasured"] == pytest.approx(1.0)  # the mean
    assert found.total({"a": "Q4_K", "b": "Q4_K", "c": "Q4_K"}) == pytest.approx(2.0)
    assert found.loss("a", "Q8_0") == pytest.approx(found.loss("a", "Q4_K") / 10)
    assert found.total({"a": "F16", "elsewhere": "Q4_K"}) == 0
    assert found.total({"a": "IQ1_S", "b": "Q4_K"}) is None  # this type was not measured


def test_relative_errors_are_the_loss_without_a_measurement() -> None:
    found = from_probes({"errors": {"a": {"Q4_K": 0.1}}, "seconds_short": 700.0})
    assert not found.measured
    assert found.seconds_short == 700.0
    assert found.total({"a": "Q4_K"}) == pytest.approx(0.1)


@pytest.fixture(scope="module")
def measured(demo_gguf: Path) -> tuple[Fit, RoundingSensitivity]:
    fit = Fit(demo_gguf)
    room = plan(demo_gguf, "Q5_0").tensor_bytes
    # A short text and much time: the result does not depend on the machine's speed.
    text = calibration_text()[:3000]
    return fit, fit.measure(room, MeasureOptions(text, seconds=1800, threads=1))


def test_written_file_matches_the_allocation(
    measured: tuple[Fit, RoundingSensitivity], demo_gguf: Path, tmp_path: Path
) -> None:
    fit, found = measured
    assert found.measured
    for name in ("Q3_K_M", "Q4_K_M", "Q5_0", "Q6_K", "Q8_0"):
        preview, plain = fit.plain(find_recipe(name), found)
        allocation = fit.allocate(preview.tensor_bytes, found)
        assert allocation
        assert allocation.tensor_bytes <= preview.tensor_bytes
        assert plain is not None
        assert allocation.loss <= plain * 1.02, name
    out = tmp_path / "fitted.gguf"
    allocation = fit.allocate(preview.tensor_bytes - 100_000, found)
    assert allocation
    assert fit.preview(allocation).tensor_bytes == allocation.tensor_bytes
    fit.write(allocation, out, QuantizeOptions(metadata={"turbopilot.quantize.fit.memory": 7}))
    header = read_gguf(out)
    types = {t.name: t.type_name for t in header.tensors}
    assert {n: types[n] for n in allocation.types} == dict(allocation.types)
    assert len(set(allocation.types.values())) > 1
    assert sum(t.n_bytes for t in header.tensors) == allocation.tensor_bytes
    assert header.metadata["turbopilot.quantize.fit.memory"] == 7
    assert header.metadata["turbopilot.quantize.source.file"] == demo_gguf.name


def test_predicted_divergence_is_near_the_measured_one(
    measured: tuple[Fit, RoundingSensitivity], demo_gguf: Path, tmp_path: Path
) -> None:
    from turbopilot.bench import Setup, divergence, keep_reference

    fit, found = measured
    out = tmp_path / "fitted.gguf"
    allocation = fit.allocate(plan(demo_gguf, "Q5_0").tensor_bytes, found)
    assert allocation
    fit.write(allocation, out)
    setup = Setup(n_ctx=512, n_threads=1)
    reference = keep_reference(
        demo_gguf, calibration_text(), tmp_path / "logits", setup, positions=255
    )
    kl = divergence(out, reference, setup).mean_kl
    assert allocation.loss / 3 < kl < allocation.loss * 3


def test_allocation_below_the_smallest_size_is_none(
    measured: tuple[Fit, RoundingSensitivity],
) -> None:
    fit, found = measured
    assert fit.allocate(fit.smallest - 1, found) is None
    smallest = fit.allocate(fit.smallest, found)
    assert smallest
    assert smallest.tensor_bytes == fit.smallest


def test_quantized_source_is_rejected(demo_q4_0: Path) -> None:
    with pytest.raises(QuantizationError, match="is already quantized to Q4_0") as e:
        Fit(demo_q4_0)
    assert "F16" in e.value.hint


def test_too_short_text_fails_and_too_short_time_is_reported(small_gguf: Path) -> None:
    fit = Fit(small_gguf)
    with pytest.raises(QuantizationError, match="fewer than"):
        fit.measure(10**6, MeasureOptions("x = 1", seconds=5, threads=1))
    found = fit.measure(10**6, MeasureOptions(calibration_text(), seconds=1e-6, threads=1))
    assert not found.measured
    assert found.seconds_short > 1e-6


def test_probe_normalizes_text_before_tokenizing(demo_gguf: Path, tmp_path: Path) -> None:
    """Normalize text if the metadata requires it, because decomposed characters give other tokens."""
    path = tmp_path / "nfc.gguf"
    shutil.copyfile(demo_gguf, path)
    set_metadata(path, {NORMALIZER_KEY: "NFC"})
    model = ProbedModel(read_gguf(path), 1, PlacementWish(0))
    text = "caf\u00e9 = 1\n" * 100
    composed = model.windows(text, 8)
    assert composed
    assert model.windows(unicodedata.normalize("NFD", text), 8) == composed
