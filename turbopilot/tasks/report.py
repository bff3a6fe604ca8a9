"""Results of a model on a suite of tasks, compared with its reference."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from turbopilot.tasks.journal import TaskCompletion
from turbopilot.tasks.paired import Paired
from turbopilot.tasks.suite import Suite, Task


@dataclass(frozen=True, slots=True)
class Outcome:
    """Quality of a completion.

    Attributes:
        exact: whether it is the solution, apart from white space at the ends.
        similarity: difflib's ratio of completion and solution, 0 … 1.
        passed: whether the program passes its test; None if it was not executed.
    """

    exact: bool
    similarity: float
    passed: bool | None = None


def outcome(task: Task, text: str, passed: bool | None = None) -> Outcome:
    """Return the quality of a completion of a task."""
    given, wanted = text.strip(), task.solution.strip()
    matcher = difflib.SequenceMatcher(None, given, wanted, autojunk=False)
    return Outcome(given == wanted, matcher.ratio(), passed)


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """Completions of a suite's tasks by one model, and their quality; both by the tasks' names.

    Attributes:
        model: file or folder of the model.
        layout: layout of the fill-in-the-middle prompts; "" if only the text before the gap was given.
    """

    model: str
    layout: str
    completions: Mapping[str, TaskCompletion]
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A candidate on a suite, beside its reference.

    Attributes:
        candidate: the GGUF file.
        reference: the checkpoint or GGUF file.
        suite: value of `--task`.
        title: what the suite consists of.
        n: number of tasks.
        of: number of tasks of the whole suite.
        seed: seed of the sample.
        layout: layout of the fill-in-the-middle prompts; "" if only the text before the gap was given.
        equal: tasks for which both models wrote the same text.
        first_tokens: tasks for which both models chose the same first token.
        similarity: mean similarity with the solutions, of the reference and of the candidate.
        exact: exact matches.
        passed: programs that pass their tests; None if they were not executed.
    """

    candidate: str
    reference: str
    suite: str
    title: str
    n: int
    of: int
    seed: int
    layout: str
    equal: int
    first_tokens: int
    similarity: tuple[float, float]
    exact: Paired
    passed: Paired | None

    def to_json(self) -> dict[str, Any]:
        """Return values for JSON."""
        return {
            **asdict(self),
            "exact": _plain(self.exact),
            "passed": self.passed and _plain(self.passed),
        }

    @property
    def line(self) -> str:
        """The result in one line, for certificates."""
        p = self.passed or self.exact
        what = "pass" if self.passed else "exact"
        low, high = p.interval
        return (
            f"{self.suite}: {p.candidate} of {p.n} {what}, reference {p.reference} "
            f"(difference {p.difference:+.1%}, 95 % {low:+.1%} … {high:+.1%}, p {p.p_value:.2g})"
        )


def compare(
    suite: Suite, tasks: Sequence[Task], seed: int, reference: SuiteRun, candidate: SuiteRun
) -> TaskReport:
    """Return the report of two runs of the same tasks, a sample of the suite with this seed."""
    names = [t.name for t in tasks]
    texts = [(reference.completions[name], candidate.completions[name]) for name in names]
    pairs = [(reference.outcomes[name], candidate.outcomes[name]) for name in names]
    n = max(1, len(tasks))
    executed = all(o.passed is not None for pair in pairs for o in pair)
    return TaskReport(
        candidate.model, reference.model, suite.name, suite.title, len(tasks), len(suite.tasks), seed, candidate.layout,
        equal=sum(r.text == c.text for r, c in texts),
        first_tokens=sum(r.first_token == c.first_token for r, c in texts),
        similarity=(sum(r.similarity for r, _ in pairs) / n, sum(c.similarity for _, c in pairs) / n),
        exact=Paired.of((r.exact, c.exact) for r, c in pairs),
        passed=Paired.of((bool(r.passed), bool(c.passed)) for r, c in pairs) if executed else None,
    )  # fmt: skip


def _plain(p: Paired) -> dict[str, Any]:
    return {
        **asdict(p), "reference": p.reference, "candidate": p.candidate, "difference": p.difference,
        "interval": p.interval, "p_value": p.p_value,
    }  # fmt: skip
