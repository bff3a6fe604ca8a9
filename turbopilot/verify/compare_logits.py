"""Both models over the same windows, a block of positions at a time. Knows no model and no limit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from time import perf_counter

from turbopilot.base.progress import Progress, silent
from turbopilot.verify.accumulator import Accumulator
from turbopilot.verify.criteria import Answer
from turbopilot.verify.metrics import Positions, summary
from turbopilot.verify.source import Change, LogitsSource, Reference, Window


def compare_logits(
    reference: LogitsSource,
    candidate: LogitsSource,
    windows: Sequence[Window],
    progress: Progress = silent,
    clock: Clock | None = None,
) -> Positions:
    """Run both models over every window, a block of positions at a time."""
    clock = clock or Clock()
    total = sum(len(w.measured) for w in windows)
    seen = Accumulator()
    done = 0
    for i, window in enumerate(windows):
        ours, theirs = reference.logits(window), candidate.logits(window)
        for block in window.blocks(reference.n_vocab):
            progress(done, total, "logits")
            with clock("reference"):
                right = next(ours)
            with clock("candidate"):
                given = next(theirs)
            with clock("metrics"):
                seen.add(i, block, window.ids, right, given)
            done += len(block)
    progress(total, total, "logits")
    return seen.positions()


class Clock:
    """Adds up what the time goes into: `with clock("metrics"): …`; `seconds` by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._began = "", 0.0

    def __call__(self, name: str) -> Clock:
        """Name what comes next."""
        self._name = name
        return self

    def __enter__(self) -> None:
        self._began = perf_counter()

    def __exit__(self, *_: object) -> None:
        spent = perf_counter() - self._began
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + spent


def moved(
    reference: Reference, change: Change, windows: Sequence[Window], progress: Progress
) -> Answer | None:
    """How far a change moves the reference from itself; None where it does not."""
    about = hashlib.sha256(repr([(w.ids, w.measured) for w in windows]).encode()).hexdigest()
    question = f"moved {change} {about}"
    if (kept := reference.remembered(question)) is not None:
        return Answer(**kept) if kept else None  # type: ignore[arg-type]
    changed = reference.changed(change)
    answer = (
        Answer.of(summary(compare_logits(changed, reference, windows, progress)))
        if changed
        else None
    )
    reference.remember(question, asdict(answer) if answer else {})
    return answer
