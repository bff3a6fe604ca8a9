"""Whether two tokenizers cut every text alike. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping

from turbopilot.base.progress import Progress, silent
from turbopilot.verify.report import TokenDifference, TokenResult
from turbopilot.verify.source import LogitsSource

_EXCERPT = 8  # tokens shown before a difference


def compare_tokens(
    reference: LogitsSource,
    candidate: LogitsSource,
    texts: Mapping[str, str],
    progress: Progress = silent,
) -> TokenResult:
    """Cut every text with both tokenizers."""
    n_ids = n_equal = 0
    first: TokenDifference | None = None
    for i, (name, text) in enumerate(texts.items()):
        progress(i, len(texts), "tokens")
        ours, theirs = reference.tokenize(text), candidate.tokenize(text)
        n_ids += len(ours)
        if ours == theirs:
            n_equal += 1
        elif first is None:
            first = _difference(name, ours, theirs, reference, candidate)
    progress(len(texts), len(texts), "tokens")
    return TokenResult(texts=len(texts), texts_equal=n_equal, ids=n_ids, first_difference=first)


def _difference(
    name: str, ours: list[int], theirs: list[int], reference: LogitsSource, candidate: LogitsSource
) -> TokenDifference:
    common = min(len(ours), len(theirs))
    at = next((i for i in range(common) if ours[i] != theirs[i]), common)
    return TokenDifference(
        text_name=name,
        index=at,
        before=reference.text(ours[max(0, at - _EXCERPT) : at]),
        reference_id=ours[at] if at < len(ours) else None,
        reference_text=reference.text(ours[at : at + 1]),
        candidate_id=theirs[at] if at < len(theirs) else None,
        candidate_text=candidate.text(theirs[at : at + 1]),
    )
