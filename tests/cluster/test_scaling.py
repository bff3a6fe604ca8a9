"""Number of engines by open requests."""

from __future__ import annotations

import ast
import inspect
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from turbopilot.cluster import scaling
from turbopilot.cluster.scaling import OPEN, needed_replicas, queue_policy


@pytest.mark.parametrize(
    ("opened", "n_running", "needed"),
    [
        ([4, 4], 2, 2),
        ([8, 8], 2, 4),
        ([9, 8], 2, 5),
        ([0, 0, 0], 3, 0),
        ([16], 4, 16),  # three have not reported yet
        ([1], 1, 1),
        ([], 3, 3),  # none has reported: keep them
    ],
)
def test_needed_replicas(opened: list[float], n_running: int, needed: int) -> None:
    assert needed_replicas(opened, n_running, busy=4.0) == needed


def context(n: int, metrics: Any, target: int = 1) -> Any:
    config = SimpleNamespace(get_target_ongoing_requests=lambda: 4.0)
    return SimpleNamespace(
        current_num_replicas=n,
        target_num_replicas=target,
        aggregated_metrics=metrics,
        config=config,
    )


def test_policy_counts_the_requests_that_engines_report() -> None:
    assert queue_policy(context(2, {OPEN: {"a": 12.0, "b": 4.0}}))[0] == 4


def test_policy_keeps_one_engine_without_requests() -> None:
    assert queue_policy(context(2, {OPEN: {"a": 0.0, "b": 0.0}}))[0] == 1


@pytest.mark.parametrize("metrics", [None, {}])
def test_policy_keeps_the_number_without_reports(metrics: Any) -> None:
    assert queue_policy(context(3, metrics))[0] == 3


def test_policy_keeps_the_target_while_no_engine_runs() -> None:
    assert queue_policy(context(0, {}, target=2))[0] == 2


def test_policy_needs_only_the_standard_library() -> None:
    """Ray copies the module into its controller, whose machine may not have TurboPilot."""
    tree = ast.parse(inspect.getsource(scaling))
    names = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {str(n).split(".")[0] for n in names} <= sys.stdlib_module_names
