"""The plot of docs/scale.md: simulated lines up to 1,000 replicas beside measured points."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Final

from scale.engines import EngineRecord
from scale.policy import AFFINITY
from scale.simulation import Outcomes, Scenario, simulate
from turbopilot.render.scale import Scale
from turbopilot.render.svg import WIDTH, Labels, Line, Spot, plot, standalone

POLICIES: Final = (AFFINITY, "random")
REPLICAS: Final = (1, 2, 3, 4, 6, 10, 30, 100, 300, 1000)
PER_REPLICA: Final = 4  # developers
_HEIGHT: Final = 260.0


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity over the number of replicas."""

    title: str
    value: Callable[[Outcomes], float]
    log: bool = False


PANELS: Final = (
    Panel("completions/s", lambda o: o.completions, log=True),
    Panel("p95, seconds", lambda o: o.p95),
    Panel("cached prompt tokens, %", lambda o: 100 * o.cached),
)
Points = dict[tuple[str, int], Outcomes]


def lines(record: EngineRecord) -> Points:
    """Simulate every number of replicas with each policy, as the measured runs were."""
    like = record.runs[0].scenario
    cases = [(p, n) for n in reversed(REPLICAS) for p in POLICIES]  # the longest first
    scenarios = [
        Scenario(PER_REPLICA * n, n, p, seconds=like.seconds, warm_up=like.warm_up, spread=False)
        for p, n in cases
    ]
    n = len(scenarios)
    with ProcessPoolExecutor() as pool:
        found = pool.map(simulate, scenarios, [record.typing()] * n, [record.times] * n)
        return dict(zip(cases, found, strict=True))


def measured(record: EngineRecord) -> Points:
    """Return the measured runs with as many developers for each replica as the lines."""
    return {
        (r.scenario.policy, r.scenario.replicas): r.measured
        for r in record.runs
        if r.scenario.typists == PER_REPLICA * r.scenario.replicas and r.scenario.slower == 1
    }


def drawn(simulated: Points, found: Points) -> str:
    """Return the SVG file's text: a panel for each quantity, one below the other."""
    parts = []
    for at, panel in enumerate(PANELS):
        drawing = _panel(panel, simulated, found)
        place = f'<svg y="{at * _HEIGHT:g}" width="{WIDTH:g}" height="{_HEIGHT:g}" '
        parts.append(drawing.replace("<svg ", place, 1))
    whole = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {len(PANELS) * _HEIGHT:g}">'
    return standalone(f"{whole}{''.join(parts)}</svg>")


def _panel(panel: Panel, simulated: Points, found: Points) -> str:
    values = [panel.value(o) for o in (*simulated.values(), *found.values())]
    scale = Scale.of(values if panel.log else [0.0, *values], log=panel.log)
    marks: list[Line | Spot | Labels] = []
    ends = []
    for css, name in zip(("k1", "k2"), POLICIES, strict=True):
        at = sorted(n for p, n in simulated if p == name)
        y = [panel.value(simulated[name, n]) for n in at]
        marks.append(Line(at, y, css))
        ends.append((at[-1], y[-1], name))
    for (name, n), outcomes in found.items():
        value = panel.value(outcomes)
        css = "k1" if name == AFFINITY else "k2"
        marks.append(Spot(n, value, css, f"measured, {name}, {n} replicas: {value:.3g}"))
    x, y, words = (list(column) for column in zip(*ends, strict=True))
    marks.append(Labels(x, y, words))
    replicas = ("replicas (4 developers each)", Scale.of(REPLICAS, log=True))
    return plot(panel.title, replicas, (panel.title, scale), marks, height=_HEIGHT)
