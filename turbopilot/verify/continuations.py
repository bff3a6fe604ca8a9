"""What both models write after the same text, and where they part. Knows no model.

The reference writes; the candidate is given what it wrote and asked for its own choice at each place. Up to the first
place where they differ, that is what it would have written too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from turbopilot.base.kl_divergence import log_softmax
from turbopilot.base.progress import Progress, silent
from turbopilot.verify.report import Continuation
from turbopilot.verify.source import Logits, LogitsSource, Reference, Window
from turbopilot.verify.windows import beginnings

TOKENS = 48


def continuations(
    reference: Reference,
    candidate: LogitsSource,
    windows: Sequence[Window],
    progress: Progress = silent,
) -> tuple[Continuation, ...] | None:
    """Continue the beginnings of some windows; None where the reference is too slow to write."""
    found = []
    starts = beginnings(windows, min(reference.n_ctx, candidate.n_ctx), TOKENS)
    for i, start in enumerate(starts):
        progress(i, len(starts), "continuations")
        written = reference.continued(start.ids, TOKENS)
        if written is None:
            return None
        ids = (*start.ids, *written)
        whole = Window("greedy", start.name, ids, range(len(start.ids) - 1, len(ids) - 1))
        found.append(_part(whole, written, reference, candidate))
    return tuple(found)


def _part(
    whole: Window, written: Sequence[int], reference: LogitsSource, candidate: LogitsSource
) -> Continuation:
    theirs = _logits(candidate, whole).argmax(axis=1)
    at = next((i for i, (a, b) in enumerate(zip(written, theirs, strict=True)) if a != b), None)
    if at is None:
        return Continuation(whole.name, len(written), len(written), None, "", "")
    log_p = log_softmax(_logits(reference, whole)[at : at + 1].astype(np.float64))[0]
    return Continuation(
        whole.name, len(written), at, float(log_p[written[at]] - log_p[theirs[at]]),
        reference.text([written[at]]), candidate.text([int(theirs[at])]),
    )  # fmt: skip


def _logits(source: LogitsSource, window: Window) -> Logits:
    return np.concatenate(list(source.logits(window)))
