"""Programming tasks of HumanEval and HumanEval-Infilling.

Sources: https://github.com/openai/human-eval and https://github.com/openai/human-eval-infilling, MIT.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final


@dataclass(frozen=True, slots=True)
class Task:
    """A program with a gap.

    Attributes:
        name: unique name.
        prefix: the program before the gap.
        suffix: the program after the gap; None if the gap is at the end.
        solution: text that belongs into the gap.
        test: Python code that defines `check(candidate)`.
        entry_point: function that `check` is called with.
    """

    name: str
    prefix: str
    suffix: str | None
    solution: str
    test: str
    entry_point: str

    def program(self, completion: str) -> str:
        """Return the program with a completion in its gap, followed by its test.

        A missing newline is added to a completion of whole lines: the rule that ends it after one leaves it out.
        """
        if self.solution.endswith("\n") and not completion.endswith("\n"):
            completion += "\n"
        whole = f"{self.prefix}{completion}{self.suffix or ''}"
        return f"{whole}\n{self.test}\ncheck({self.entry_point})\n"


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of tasks, and the rules that end their completions.

    Attributes:
        name: value of `--task`.
        title: description for reports.
        file: file in the folder `data`.
        max_tokens: maximum tokens of a completion; no solution is longer.
        stop_strings: strings that end a completion.
        single_line: whether a completion is one line.
    """

    name: str
    title: str
    file: str
    max_tokens: int
    stop_strings: tuple[str, ...] = ()
    single_line: bool = False

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, in the order of the file."""
        return _read(self.file)

    def sample(self, n: int | None, seed: int) -> Sequence[Task]:
        """Return `n` random tasks in the order of the file, or all. A larger `n` keeps the tasks of a smaller one."""
        tasks = self.tasks
        if n is None or n >= len(tasks):
            return tasks
        order = random.Random(seed).sample(range(len(tasks)), len(tasks))
        return [tasks[i] for i in sorted(order[:n])]


# The stop strings end a function's body. Source: Chen et al. 2021, section 2.1.
_BODY_ENDS: Final = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint")

SUITES: Final = {
    s.name: s
    for s in (
        Suite("infill", "single lines to fill in", "single_line.jsonl.gz", 96, single_line=True),
        Suite("span", "random spans to fill in", "random_span.jsonl.gz", 160),
        Suite("complete", "functions to complete", "complete.jsonl.gz", 384, _BODY_ENDS),
    )
}
"""Value of `--task` → its suite."""


@cache
def _read(file: str) -> tuple[Task, ...]:
    path = resources.files("turbopilot.tasks") / "data" / file
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return tuple(
        Task(
            t["task_id"],
            t["prompt"],
            t.get("suffix"),
            t["canonical_solution"],
            t["test"],
            t["entry_point"],
        )
        for t in map(json.loads, lines)
    )
