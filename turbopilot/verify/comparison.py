"""Comparison of two models on the same texts and windows: token ids, logits, greedy continuations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter

import numpy as np

from turbopilot.base.kl_divergence import log_softmax
from turbopilot.base.progress import Progress, silent
from turbopilot.verify.criteria import Sensitivity
from turbopilot.verify.metrics import Positions, joined, measure, summary
from turbopilot.verify.report import Continuation, TokenDifference, TokenResult
from turbopilot.verify.source import Change, Logits, LogitsSource, ReferenceModel, Window
from turbopilot.verify.windows import beginnings

_EXCERPT = 8  # tokens shown before a difference
_CONTINUED = 48  # tokens of a greedy continuation


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the duration of the `with` block to `seconds[name]`."""
    began = perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + perf_counter() - began


def compare_tokens(
    reference: LogitsSource,
    candidate: LogitsSource,
    texts: Mapping[str, str],
    progress: Progress = silent,
) -> TokenResult:
    """Tokenize every text with both tokenizers and compare the ids."""
    n_ids = n_equal = 0
    first: TokenDifference | None = None
    for i, (name, text) in enumerate(texts.items()):
        progress(i, len(texts), "tokens")
        ours, theirs = reference.tokenize(text), candidate.tokenize(text)
        n_ids += len(ours)
        if ours == theirs:
            n_equal += 1
        elif first is None:
            at = _parting(ours, theirs)
            first = TokenDifference(
                text_name=name,
                index=at,
                before=reference.text(ours[max(0, at - _EXCERPT) : at]),
                reference_id=ours[at] if at < len(ours) else None,
                reference_text=reference.text(ours[at : at + 1]),
                candidate_id=theirs[at] if at < len(theirs) else None,
                candidate_text=candidate.text(theirs[at : at + 1]),
            )
    progress(len(texts), len(texts), "tokens")
    return TokenResult(texts=len(texts), texts_equal=n_equal, ids=n_ids, first_difference=first)


def _parting(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Return the first index at which two sequences differ, or the length of the shorter."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


def compare_logits(
    reference: LogitsSource,
    candidate: LogitsSource,
    windows: Sequence[Window],
    progress: Progress = silent,
    seconds: dict[str, float] | None = None,
) -> Positions:
    """Run both models over at least one window and compare their logits, one block of positions at a time."""
    seconds = {} if seconds is None else seconds
    total = sum(len(w.measured) for w in windows)
    measured: list[Positions] = []
    done = 0
    for i, window in enumerate(windows):
        ours, theirs = reference.logits(window), candidate.logits(window)
        for block in window.blocks(reference.n_vocab):
            progress(done, total, "logits")
            with timed(seconds, "reference"):
                right = next(ours)
            with timed(seconds, "candidate"):
                given = next(theirs)
            with timed(seconds, "metrics"):
                measured.append(measure(i, block, window.ids, right, given))
            done += len(block)
    progress(total, total, "logits")
    return joined(measured)


def sensitivity(
    reference: ReferenceModel, change: Change, windows: Sequence[Window], progress: Progress
) -> Sensitivity | None:
    """Return how much a change affects the reference's logits; None if it has no effect."""
    about = hashlib.sha256(repr([(w.ids, w.measured) for w in windows]).encode()).hexdigest()
    question = f"moved {change} {about}"
    if (kept := reference.notes.get(question)) is not None:
        return Sensitivity(**kept) if kept else None
    changed, found = reference.changed(change), None
    if changed:
        for model in (reference, changed):  # one after the other: both may not fit into memory
            model.prepare(windows, progress)
        found = Sensitivity.of(summary(compare_logits(changed, reference, windows, progress)))
    reference.notes[question] = asdict(found) if found else {}
    return found


def continuations(
    reference: ReferenceModel,
    candidate: LogitsSource,
    windows: Sequence[Window],
    progress: Progress = silent,
) -> tuple[Continuation, ...] | None:
    """Compare greedy continuations of some windows; return None if the reference is too slow to generate.

    The reference generates. The candidate reads the generated tokens, and its own first choice at each position is
    compared; up to the first difference, these are the tokens that it would have generated.
    """
    found = []
    starts = beginnings(windows, min(reference.n_ctx, candidate.n_ctx), _CONTINUED)
    for i, start in enumerate(starts):
        progress(i, len(starts), "continuations")
        written = reference.continued(start.ids, _CONTINUED)
        if written is None:
            return None
        ids = (*start.ids, *written)
        whole = Window("greedy", start.name, ids, range(len(start.ids) - 1, len(ids) - 1))
        theirs = _logits(candidate, whole).argmax(axis=1).tolist()
        at, n = _parting(written, theirs), len(written)
        if at == n:
            found.append(Continuation(start.name, n, n, None, "", ""))
            continue
        log_p = log_softmax(_logits(reference, whole)[at : at + 1].astype(np.float64))[0]
        found.append(
            Continuation(
                start.name, n, at, float(log_p[written[at]] - log_p[theirs[at]]),
                reference.text([written[at]]), candidate.text([theirs[at]]),
            )
        )  # fmt: skip
    return tuple(found)


def _logits(source: LogitsSource, window: Window) -> Logits:
    return np.concatenate(list(source.logits(window)))
