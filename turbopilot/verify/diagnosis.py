"""What a failure comes from. Pure: from the figures, and where there are any, from the tensors and the metadata.

The figures tell by construction. At its first position a token attends to itself alone, whatever queries and keys
are: so a fault in those, or in the rotation, spares the logits there, and grows with the distance that it falsifies.
A fault in anything else does not spare them. Which tensor it is, and how it is wrong, only the weights can tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from turbopilot.verify.criteria import Failure, Limits
from turbopilot.verify.metrics import Positions
from turbopilot.verify.report import Finding
from turbopilot.verify.tensor_errors import TensorError

CAUSES: Final[Mapping[str, str]] = {
    "overflow": "values became infinite on the way: convert to bf16 or f32",
    "dropped": "a tensor was left out",
    "missing": "tensors are missing",
    "surplus": "tensors are there that should not be",
    "shape": "tensors have another shape",
    "rotary_skipped": "the rotary permutation was skipped",
    "rotary_twice": "the rotary permutation was applied twice",
    "head_rows": "rows of a head are in another order",
    "swapped": "tensors hold each other's weights",
    "transposed": "a matrix is transposed",
    "shifted_rows": "rows are shifted",
    "moved_rows": "rows are in other places",
    "requantized": "the file was made of a coarser one",
    "other_weights": "other weights: another checkpoint, or another revision of it",
    "noise": "more error than the type explains: quantized from a quantized file?",
    "layer_left_out": "a layer was left out",
    "layer_doubled": "a layer is there twice",
    "epsilon": "a norm's epsilon is wrong",
    "rope_base": "the rotation's base is wrong",
    "hyperparameter": "the geometry is wrong",
    "merges": "the tokenizer's merges are wrong",
    "vocabulary": "the tokenizer's vocabulary is wrong",
    "attention": "queries, keys or their rotation: the first position, which needs none of them, is right",
    "rotation": "the rotation: what is wrong grows with the position",
    "everywhere": "not attention's queries and keys: the first position is wrong too",
}
"""Cause → what it means, for a person."""

_BLOCK: Final = re.compile(r"blk\.(\d+)\.(.+)")
_GROWS: Final = 3.0  # times the error of a context's first quarter that its last quarter has
_SPARED: Final = 0.01  # share of the whole error that a right first position may have
_LISTED: Final = 4


def diagnose(
    failures: Sequence[Failure],
    positions: Positions | None,
    limits: Limits | None,
    metadata: Mapping[str, Any],
    *,
    expected: Mapping[str, Any] | None = None,
    tensors: Sequence[TensorError] = (),
) -> list[Finding]:
    """What explains the failures, the surest first; nothing where nothing failed.

    Args:
        failures: of the verdict.
        positions: every position's figures.
        limits: that were missed.
        metadata: of the candidate.
        expected: the metadata that it should have.
        tensors: its tensors' errors.
    """
    if not failures:
        return []
    found = [
        *_metadata(metadata, expected or {}, failures),
        *_weights(tensors, metadata, expected or {}),
    ]
    if positions is not None and limits is not None:
        found += _figures(positions, limits, failures)
    return found


def _finding(cause: str, detail: str) -> Finding:
    return Finding(cause, f"{CAUSES[cause]}: {detail}")


def _figures(p: Positions, limits: Limits, failures: Sequence[Failure]) -> list[Finding]:
    """What the logits alone smell of."""
    checks = {f.check for f in failures}
    if "finite" in checks:
        return [_finding("overflow", "logits are NaN or infinite")]
    if not checks & {"nmse", "mean_kl", "clear_top1"}:
        return []
    first, rest = p.where(p.position == 0), p.where(p.position > 0)
    if not len(first.window) or not len(rest.window):
        return []
    spared = first.nmse() <= max(limits.nmse, _SPARED * rest.nmse())
    times = f"NMSE {first.nmse():.1e} at the first position, {rest.nmse():.1e} at the others"
    if not spared:
        return [_finding("everywhere", times)]
    early, late = _quarters(rest)
    if late > _GROWS * early:
        return [
            _finding("rotation", f"NMSE {early:.1e} in the first quarter, {late:.1e} in the last")
        ]
    return [_finding("attention", times)]


def _quarters(p: Positions) -> tuple[float, float]:
    """NMSE in the first and in the last quarter of the longest window."""
    longest = p.where(p.window == p.window[p.position.argmax()])
    end = longest.position.max()
    return longest.where(longest.position <= end / 4).nmse(), longest.where(
        longest.position >= end * 3 / 4
    ).nmse()


def _weights(
    tensors: Sequence[TensorError], metadata: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[Finding]:
    """What the tensors say, those of one cause together."""
    wrong = [t for t in tensors if t.wrong]
    if layers := _layers(wrong, metadata, expected):
        return [layers]
    by_cause: dict[str, list[TensorError]] = {}
    for t in wrong:
        by_cause.setdefault(t.cause, []).append(t)
    return [
        _finding(
            cause,
            "; ".join(f"{t.name} {t.detail}" for t in group[:_LISTED])
            + (f"; and {len(group) - _LISTED} more" if len(group) > _LISTED else ""),
        )
        for cause, group in sorted(by_cause.items(), key=lambda item: -len(item[1]))
    ]


def _layers(
    wrong: Sequence[TensorError], metadata: Mapping[str, Any], expected: Mapping[str, Any]
) -> Finding | None:
    """Whether whole layers hold others' weights: one was left out or is there twice."""
    arch = metadata.get("general.architecture")
    n, should = (m.get(f"{arch}.block_count") for m in (metadata, expected))
    holds: dict[int, set[int]] = {}
    for t in wrong:
        here, there = (
            _BLOCK.fullmatch(t.name),
            _BLOCK.search(t.detail) if t.cause == "swapped" else None,
        )
        if here and there and here[2] == there[2]:
            holds.setdefault(int(here[1]), set()).add(int(there[1]))
    moves = {layer: there.pop() - layer for layer, there in holds.items() if len(there) == 1}
    fewer = type(n) is int and type(should) is int and n < should
    more = type(n) is int and type(should) is int and n > should
    if not moves and not fewer and not more:
        return None
    if fewer and (not moves or set(moves.values()) == {1}):
        gone = min(moves, default=n)
        return _finding("layer_left_out", f"layer {gone} of {should}")
    if (more or moves) and (not moves or max(moves.values()) < 0):
        twice = min(moves, default=int(should or 0)) - 1
        return _finding("layer_doubled", f"layer {twice}")
    return None


def _metadata(
    metadata: Mapping[str, Any], expected: Mapping[str, Any], failures: Sequence[Failure]
) -> list[Finding]:
    found = []
    for f in failures:
        kind, _, key = f.check.partition(" ")
        if kind == "hyperparameter" and key != "block_count":
            cause = {"epsilon": "epsilon", "rope.freq_base": "rope_base"}.get(key, "hyperparameter")
            found.append(_finding(cause, f.message))
    tokens = "tokenizer.ggml.tokens"
    if detail := _list_difference(metadata.get(tokens), expected.get(tokens)):
        found.append(_finding("vocabulary", f"token {detail}"))
    types = "tokenizer.ggml.token_type"
    if detail := _list_difference(metadata.get(types), expected.get(types)):
        found.append(_finding("vocabulary", f"type of token {detail}"))
    merges = "tokenizer.ggml.merges"
    if detail := _list_difference(metadata.get(merges), expected.get(merges)):
        found.append(_finding("merges", f"merge {detail}"))
    for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre"):
        if key in expected and metadata.get(key) != expected[key]:
            detail = f"{key} is {metadata.get(key)!r}, not {expected[key]!r}"
            found.append(_finding("vocabulary", detail))
    return found


def _list_difference(got: Any, should: Any) -> str:
    """Where two lists part, in words; "" where they do not or are none."""
    if not isinstance(should, list) or got == should:
        return ""
    if not isinstance(got, list):
        return "list is missing"
    common = min(len(got), len(should))
    wrong = np.flatnonzero([a != b for a, b in zip(got, should, strict=False)])
    if not len(wrong):
        return f"list has {len(got):,} entries, not {len(should):,}"
    i = int(wrong[0])
    words = f"{i:,} is {got[i]!r}, not {should[i]!r}"
    others = {j for j in wrong.tolist() if j != i}
    back = next((j for j in others if got[j] == should[i] and got[i] == should[j]), None)
    if len(wrong) == 2 and back is not None:
        return f"{words}: it and {back:,} are swapped"
    return words + (f" (and {len(others):,} more of {common:,})" if others else "")
