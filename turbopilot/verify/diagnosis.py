"""Probable causes of a failure, found from the logits, the tensors and the metadata.

The first token attends only to itself, whatever its query and key are. So a fault in queries, keys or their rotation
leaves the logits of the first position right, and a fault in the rotation grows with the position. Any other fault
changes the first position too. The weights then show which tensor is wrong, and how.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from turbopilot.verify.criteria import Failure, VerifyLimits
from turbopilot.verify.metrics import Positions
from turbopilot.verify.report import Finding, VerifyReport
from turbopilot.verify.tensor_errors import TensorError

CAUSES: Final[Mapping[str, str]] = {
    "overflow": "values overflowed in the conversion: convert to bf16 or f32",
    "dropped": "a tensor was left out",
    "missing": "tensors are missing",
    "surplus": "the file has unexpected tensors",
    "shape": "tensors have the wrong shape",
    "rotary_skipped": "the rotary permutation was skipped",
    "rotary_twice": "the rotary permutation was applied twice",
    "head_rows": "rows of a head are in the wrong order",
    "swapped": "tensors hold each other's weights",
    "transposed": "a matrix is transposed",
    "shifted_rows": "rows are shifted",
    "moved_rows": "rows are in the wrong place",
    "moved_columns": "columns are in the wrong place",
    "rows": "single rows are wrong",
    "entries": "single values are wrong",
    "scaled": "rows are multiplied by a wrong factor",
    "offset": "a constant is missing, or was added twice",
    "requantized": "the file was converted from a coarser one",
    "other_weights": "other weights: another checkpoint, or another revision of it",
    "noise": "more error than the type explains: quantized from a quantized file?",
    "layer_left_out": "a layer was left out",
    "layer_doubled": "a layer is duplicated",
    "epsilon": "a norm's epsilon is wrong",
    "rope_base": "the RoPE base is wrong",
    "hyperparameter": "a hyperparameter is wrong",
    "merges": "the tokenizer's merges are wrong",
    "vocabulary": "the tokenizer's vocabulary is wrong",
    "attention": "queries, keys or RoPE are wrong: the first position, which does not depend on them, is right",
    "rotation": "RoPE is wrong: the error grows with the position",
    "everywhere": "the fault is not in queries, keys or RoPE: the first position is wrong too",
}
"""Cause → description."""

_LISTS: Final = (  # lists of the tokenizer: key, cause, name of an element
    ("tokens", "vocabulary", "token"),
    ("token_type", "vocabulary", "token type"),
    ("merges", "merges", "merge"),
)
_BLOCK: Final = re.compile(r"blk\.(\d+)\.(.+)")
_GROWS: Final = 3.0  # an error grows if the last quarter has this many times the first quarter's
_SPARED: Final = 0.01  # a first position is right if its error is at most this share of the others'
_LISTED: Final = 4  # tensors listed for one cause


def diagnose(
    report: VerifyReport,
    metadata: Mapping[str, Any],
    expected: Mapping[str, Any],
    tensors: Sequence[TensorError],
) -> list[Finding]:
    """Return the probable causes of a report's failures, the most certain first.

    `metadata` is the candidate's, `expected` is the expected metadata (empty if unknown), `tensors` are the compared
    tensors.
    """
    if not report.failures:
        return []
    found = [
        *_metadata(metadata, expected, report.failures), *_weights(tensors, metadata, expected)
    ]  # fmt: skip
    if report.positions is not None and report.limits is not None:
        found += _figures(report.positions, report.limits, report.failures)
    return found


def _finding(cause: str, detail: str) -> Finding:
    return Finding(cause, f"{CAUSES[cause]}: {detail}")


def _figures(p: Positions, limits: VerifyLimits, failures: Sequence[Failure]) -> list[Finding]:
    """Return the causes that the logits alone show."""
    checks = {f.check for f in failures}
    if "finite" in checks:
        return [_finding("overflow", "logits are NaN or infinite")]
    if not checks & {"nmse", "mean_kl", "clear_top1"}:
        return []
    first, rest = p.where(p.position == 0), p.where(p.position > 0)
    if not len(first.window) or not len(rest.window):
        return []
    times = f"NMSE {first.nmse():.1e} at the first position, {rest.nmse():.1e} at the others"
    if first.nmse() > max(limits.nmse, _SPARED * rest.nmse()):
        return [_finding("everywhere", times)]
    longest = rest.where(rest.window == rest.window[rest.position.argmax()])
    place = longest.position / longest.position.max()
    early, late = longest.where(place <= 1 / 4).nmse(), longest.where(place >= 3 / 4).nmse()
    if late > _GROWS * early:
        times = f"NMSE {early:.1e} in the first quarter, {late:.1e} in the last"
        return [_finding("rotation", times)]
    return [_finding("attention", times)]


def _weights(
    tensors: Sequence[TensorError], metadata: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[Finding]:
    """Return the causes that the tensors show, one finding per cause."""
    wrong = [t for t in tensors if t.wrong]
    if layers := _layers(wrong, metadata, expected):
        return [layers]
    by_cause: dict[str, list[TensorError]] = {}
    for t in wrong:
        by_cause.setdefault(t.cause, []).append(t)
    found = []
    for cause, group in sorted(by_cause.items(), key=lambda item: -len(item[1])):
        parts = [f"{t.name} {t.detail}" for t in group[:_LISTED]]
        parts += [f"and {len(group) - _LISTED} more"] if len(group) > _LISTED else []
        found.append(_finding(cause, "; ".join(parts)))
    return found


def _layers(
    wrong: Sequence[TensorError], metadata: Mapping[str, Any], expected: Mapping[str, Any]
) -> Finding | None:
    """Return a finding if a layer was left out or duplicated, so that layers hold other layers' weights."""
    arch = metadata.get("general.architecture")
    n, should = (m.get(f"{arch}.block_count") for m in (metadata, expected))
    holds: dict[int, set[int]] = {}
    for t in wrong:
        here, there = _BLOCK.fullmatch(t.name), _BLOCK.search(t.detail)
        if t.cause == "swapped" and here and there and here[2] == there[2]:
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
    for name, cause, what in _LISTS:
        key = f"tokenizer.ggml.{name}"
        if detail := _list_difference(metadata.get(key), expected.get(key)):
            found.append(_finding(cause, f"{what} {detail}"))
    for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre"):
        if key in expected and metadata.get(key) != expected[key]:
            detail = f"{key} is {metadata.get(key)!r}, not {expected[key]!r}"
            found.append(_finding("vocabulary", detail))
    return found


def _list_difference(got: Any, should: Any) -> str:
    """Return a description of the first difference of two lists; "" if none, or if no list is expected."""
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
        return f"{words}: swapped with {back:,}"
    return words + (f" (and {len(others):,} more of {common:,})" if others else "")
