"""Plans of published geometries equal the golden files; they need only config, names and shapes, no weights."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from converters.plan import plan
from converters.plan_text import render
from converters.registry import FAMILIES, find
from tests.support.published import NAMES, published, published_config
from turbopilot import catalog
from turbopilot.llama.geometry import read_geometry

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", NAMES)
def test_plan_equals_the_golden_file(name: str) -> None:
    """Compare the plan with its golden file. To update a golden file, delete it and run this test twice."""
    model = published(name)
    text = render(plan(find(model.config), model.config, model.sources, "F16"))
    golden = GOLDEN / f"{name}.txt"
    if not golden.exists():
        golden.write_text(text, "utf-8")
        pytest.fail(f"{golden} did not exist and was written: check it, then commit it")
    expected = golden.read_text("utf-8")
    difference = difflib.unified_diff(expected.splitlines(), text.splitlines(), "golden", "planned")
    assert text == expected, "\n".join(difference)


@pytest.mark.parametrize("name", NAMES)
def test_number_of_weights_equals_the_catalogue(name: str) -> None:
    model = published(name)
    made = plan(find(model.config), model.config, model.sources, "F16")
    known = [m for m in catalog.MODELS if m.repository == model.repository]
    for entry in known:
        # zeros that the graph requires and the checkpoint lacks do not count as weights
        n = sum(t.n_weights for t in made.tensors if t.parts)
        assert n == pytest.approx(entry.parameters, rel=0.005), entry.alias


@pytest.mark.parametrize("name", NAMES)
def test_geometry_equals_the_catalogue(name: str) -> None:
    model = published(name)
    made = plan(find(model.config), model.config, model.sources, "F16")
    geometry = read_geometry(made.keys, {t.name: t.shape[::-1] for t in made.tensors})
    for entry in (m for m in catalog.MODELS if m.repository == model.repository):
        assert geometry == entry.geometry, entry.alias
        assert made.dims.n_ctx == entry.context, entry.alias


def test_every_family_has_a_golden_plan() -> None:
    planned = {id(find(published_config(name))) for name in NAMES}
    assert [f.architecture for f in FAMILIES if id(f) not in planned] == []
