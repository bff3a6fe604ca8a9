"""What verify found, as values. Knows nothing of models, files or terminals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from turbopilot.verify.criteria import Answer, Failure, Limits
from turbopilot.verify.metrics import Metrics, Positions
from turbopilot.verify.source import Window
from turbopilot.verify.tensor_errors import TensorError


@dataclass(frozen=True, slots=True)
class TokenDifference:
    """The first id that the two tokenizers disagree on. An id of None: that side has no more tokens.

    Attributes:
        text_name: which text of the battery.
        index: of the first differing token in that text.
        before: the text just before it.
        reference_id: what the checkpoint's tokenizer says.
        reference_text: that token's text.
        candidate_id: what the GGUF's tokenizer says.
        candidate_text: that token's text.
    """

    text_name: str
    index: int
    before: str
    reference_id: int | None
    reference_text: str
    candidate_id: int | None
    candidate_text: str

    def __str__(self) -> str:
        return (
            f"in {self.text_name!r} at token {self.index:,}, after {self.before!r}: the checkpoint has "
            f"{self.reference_id} ({self.reference_text!r}), the GGUF {self.candidate_id} ({self.candidate_text!r})"
        )


@dataclass(frozen=True, slots=True)
class TokenResult:
    """The token battery's outcome: `ids` is how many the reference made of `texts` texts."""

    texts: int
    texts_equal: int
    ids: int
    first_difference: TokenDifference | None

    @property
    def equal(self) -> bool:
        """Whether every id of every text is the same."""
        return self.texts == self.texts_equal

    def failure(self) -> Failure | None:
        """What it fails for."""
        if self.first_difference is None:
            return None
        n = self.texts - self.texts_equal
        return Failure(
            "tokens", f"{n} of {self.texts} texts are cut differently; {self.first_difference}"
        )


@dataclass(frozen=True, slots=True)
class Continuation:
    """What both models write after the same text, always taking their first choice.

    Attributes:
        after: the window whose beginning is continued.
        tokens: how many were compared.
        equal: how many are the same, from the first on.
        margin: log p of the reference's choice minus that of the candidate's, by the reference, in nats, where
            they part; None where they do not.
        reference_text: what the reference writes there.
        candidate_text: what the candidate does.
    """

    after: str
    tokens: int
    equal: int
    margin: float | None
    reference_text: str
    candidate_text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What the failures smell of: `cause` names it for programs, `message` tells a person."""

    cause: str
    message: str


@dataclass(frozen=True, slots=True)
class Seconds:
    """What the time went into."""

    reference: float
    limits: float
    candidate: float
    metrics: float


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict on one candidate, and everything that it rests on.

    Attributes:
        candidate: the GGUF file.
        reference: the checkpoint's folder, or the other GGUF file.
        reference_files: name → SHA-256 of what the reference was read from.
        architecture: `general.architecture` of the GGUF.
        type_name: what the file is judged as.
        bits_per_weight: of the whole file.
        n_bytes: of the file.
        n_vocab: rows of the reference's vocabulary.
        n_ctx: the model's context.
        context_tested: the longest window.
        tokens: the token battery.
        windows: what was compared.
        metrics: of the logits; None where they cannot be compared (another vocabulary).
        positions: the same, position by position.
        by_kind: kind of window → its own figures.
        continuations: None where the reference is too slow to write.
        noise: how far the reference itself is moved by noise as large as the type's; None where the type's
            limits are fixed.
        tanh_gelu: how far it is moved by llama.cpp's GELU; None where it computes the same.
        limits: what the type may have with this model; None where there are none.
        failures: each limit that was missed; none: the candidate passed.
        findings: what they come from, as far as can be told.
        tensors: how far each tensor is from what it should be; None where nobody looked.
        seconds: what the time went into.
        tokens_per_second: at which the candidate read its windows on this machine; 0 where it read none.
        versions: package → version of what ran the two models.
        date: when, ISO 8601, UTC.
    """

    candidate: str
    reference: str
    reference_files: Mapping[str, str]
    architecture: str
    type_name: str
    bits_per_weight: float
    n_bytes: int
    n_vocab: int
    n_ctx: int
    context_tested: int
    tokens: TokenResult
    windows: tuple[Window, ...]
    metrics: Metrics | None
    positions: Positions | None
    by_kind: Mapping[str, Metrics]
    continuations: tuple[Continuation, ...] | None
    noise: Answer | None
    tanh_gelu: Answer | None
    limits: Limits | None
    failures: tuple[Failure, ...]
    seconds: Seconds
    tokens_per_second: float
    versions: Mapping[str, str]
    date: str
    findings: tuple[Finding, ...] = ()
    tensors: tuple[TensorError, ...] | None = field(default=None)

    @property
    def passed(self) -> bool:
        """The verdict."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain values for one JSON object; no NaN or inf among them."""
        kept = replace(self, positions=None, windows=(), tensors=None)
        plain = asdict(kept)
        del plain["positions"]
        plain |= {"versions": dict(self.versions), "reference_files": dict(self.reference_files)}
        plain["windows"] = [
            {"kind": w.kind, "name": w.name, "tokens": len(w.ids), "measured": len(w.measured)}
            for w in self.windows
        ]
        if self.tensors is not None:
            plain["tensors"] = [
                {
                    k: v if not isinstance(v, float) or np.isfinite(v) else None
                    for k, v in asdict(t).items()
                }
                for t in self.tensors
            ]
        return {"passed": self.passed, **plain}
