"""Results of verify, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any

from turbopilot.verify.criteria import Failure, Sensitivity, VerifyLimits
from turbopilot.verify.metrics import Metrics, Positions
from turbopilot.verify.source import Window
from turbopilot.verify.tensor_errors import TensorError


@dataclass(frozen=True, slots=True)
class TokenDifference:
    """The first token that the two tokenizers disagree on; an id of None if that side has no more tokens.

    Attributes:
        text_name: name of the text.
        index: of the token in that text.
        before: the text just before it.
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
    """Comparison of two tokenizers on `texts` texts, of `ids` tokens by the reference."""

    texts: int
    texts_equal: int
    ids: int
    first_difference: TokenDifference | None

    @property
    def equal(self) -> bool:
        """Whether every id of every text is equal."""
        return self.texts == self.texts_equal

    def failure(self) -> Failure | None:
        """Return the failure, if any."""
        if self.first_difference is None:
            return None
        n = self.texts - self.texts_equal
        return Failure(
            "tokens", f"{n} of {self.texts} texts are cut differently; {self.first_difference}"
        )


@dataclass(frozen=True, slots=True)
class Continuation:
    """Greedy continuations of the same text by both models.

    Attributes:
        after: the window whose beginning is continued.
        tokens: number of compared tokens.
        equal: number of equal tokens before the first difference.
        margin: at the first difference, log p of the reference's choice minus that of the candidate's, by the
            reference, in nats; None if there is none.
        reference_text: the reference's token there.
        candidate_text: the candidate's token there.
    """

    after: str
    tokens: int
    equal: int
    margin: float | None
    reference_text: str
    candidate_text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A probable cause of failures: `cause` is its name for programs, `message` a sentence."""

    cause: str
    message: str


@dataclass(frozen=True, slots=True)
class VerifySeconds:
    """Seconds spent by step."""

    reference: float = 0.0
    limits: float = 0.0
    candidate: float = 0.0
    metrics: float = 0.0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Verdict on one candidate, with everything that it rests on.

    Attributes:
        candidate: the GGUF file.
        reference: the checkpoint's folder, or the other GGUF file.
        reference_files: name → SHA-256 of the files that the reference was read from.
        architecture: `general.architecture` of the GGUF.
        type_name: the type that the file is judged as.
        bits_per_weight: of the whole file.
        n_bytes: of the file.
        n_vocab: rows of the reference's vocabulary.
        n_ctx: context length of the reference.
        context_tested: tokens of the longest window.
        tokens: comparison of the tokenizers.
        windows: the compared windows.
        metrics: figures of the logits; None if they cannot be compared (another vocabulary).
        positions: the same, position by position.
        by_kind: kind of window → its own figures.
        continuations: None if the reference is too slow to generate.
        noise: the reference's sensitivity to the noise of the type; None if the type's limits are fixed.
        tanh_gelu: its sensitivity to llama.cpp's GELU; None if it computes the same.
        limits: of the type for this model; None if there are none.
        failures: every missed limit; empty if the candidate passed.
        findings: probable causes of the failures.
        tensors: error of each tensor; None if tensors were not compared.
        seconds: time spent.
        tokens_per_second: speed at which the candidate read its windows on this machine; 0 if it read none.
        versions: package → version of the libraries that ran the two models.
        date: ISO 8601, UTC.
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
    tokens: TokenResult
    versions: Mapping[str, str]
    date: str
    context_tested: int = 0
    windows: tuple[Window, ...] = ()
    metrics: Metrics | None = None
    positions: Positions | None = None
    by_kind: Mapping[str, Metrics] = field(default_factory=dict)
    continuations: tuple[Continuation, ...] | None = None
    noise: Sensitivity | None = None
    tanh_gelu: Sensitivity | None = None
    limits: VerifyLimits | None = None
    failures: tuple[Failure, ...] = ()
    seconds: VerifySeconds = VerifySeconds()
    tokens_per_second: float = 0.0
    findings: tuple[Finding, ...] = ()
    tensors: tuple[TensorError, ...] | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON, without NaN or inf."""
        kept = replace(self, positions=None, windows=(), tensors=None)
        plain = {"passed": self.passed, **asdict(kept)}
        del plain["positions"]
        plain["windows"] = [
            {"kind": w.kind, "name": w.name, "tokens": len(w.ids), "measured": len(w.measured)}
            for w in self.windows
        ]
        if self.tensors is not None:
            plain["tensors"] = [
                {
                    k: None if isinstance(v, float) and not isfinite(v) else v
                    for k, v in asdict(t).items()
                }
                for t in self.tensors
            ]
        return plain
