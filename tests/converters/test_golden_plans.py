"""Published geometries are planned as the golden files say: from config, names and shapes, without weights."""

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
def test_the_plan_is_the_golden_one(name: str) -> None:
    """Read the golden files: they are the plan in words. Rewrite one by deleting it and running this twice."""
    model = published(name)
    text = render(plan(find(model.config), model.config, model.sources, "F16"))
    golden = GOLDEN / f"{name}.txt"
    if not golden.exists():
        golden.write_text(text, "utf-8")
        pytest.fail(f"{golden} did not exist and was written: read it, then commit it")
    expected = golden.read_text("utf-8")
    difference = difflib.unified_diff(expected.splitlines(), text.splitlines(), "golden", "planned")
    assert text == expected, "\n".join(difference)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_as_many_weights_as_the_catalogue_says(name: str) -> None:
    model = published(name)
    made = plan(find(model.config), model.config, model.sources, "F16")
    known = [m for m in catalog.MODELS if m.repository == model.repository]
    for entry in known:
        # zeros that the graph wants and the checkpoint has not are no weights of the model
        n = sum(t.n_weights for t in made.tensors if t.parts)
        assert n == pytest.approx(entry.parameters, rel=0.005), entry.alias


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_geometry_that_the_catalogue_says(name: str) -> None:
    model = published(name)
    made = plan(find(model.config), model.config, model.sources, "F16")
    geometry = read_geometry(made.keys, {t.name: t.shape[::-1] for t in made.tensors})
    for entry in (m for m in catalog.MODELS if m.repository == model.repository):
        assert geometry == entry.geometry, entry.alias
        assert made.dims.n_ctx == entry.context, entry.alias


def test_every_family_is_among_them() -> None:
    planned = {id(find(published_config(name))) for name in NAMES}
    assert [f.architecture for f in FAMILIES if id(f) not in planned] == []
