"""Results of a verification."""

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
    """First token on which two tokenizers differ. An id is None if that tokenizer returned no more tokens."""

    text_name: str  # name of the text
    index: int  # index of the token in that text
    before: str  # the text just before it
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
    """Comparison of two tokenizers."""

    texts: int  # number of texts
    texts_equal: int  # number of texts with equal ids
    ids: int  # number of the reference's tokens in all texts
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
            "tokens",
            f"{n} of {self.texts} texts are tokenized differently; {self.first_difference}",
        )


@dataclass(frozen=True, slots=True)
class Continuation:
    """Greedy continuations of the same text by both models."""

    after: str  # name of the window whose first tokens are continued
    tokens: int  # number of compared tokens
    equal: int  # number of equal tokens before the first difference
    margin: float | None  # log p of the reference's choice minus the candidate's, nats
    reference_text: str  # the reference's token there
    candidate_text: str  # the candidate's token there


@dataclass(frozen=True, slots=True)
class Finding:
    """Probable cause of failures: `cause` is its identifier, `message` a sentence."""

    cause: str
    message: str


@dataclass(frozen=True, slots=True)
class VerifySeconds:
    """Seconds spent in each step."""

    reference: float = 0.0
    limits: float = 0.0
    candidate: float = 0.0
    metrics: float = 0.0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Verdict on one candidate, and the measurements behind it."""

    candidate: str  # the GGUF file
    reference: str  # the checkpoint folder, "demo" for the bundled one, or the other GGUF file
    reference_files: Mapping[str, str]  # name → SHA-256 of the reference's files
    architecture: str  # `general.architecture` of the GGUF
    type_name: str  # the type that the file is judged as
    bits_per_weight: float  # of the whole file
    n_bytes: int  # of the file
    n_vocab: int  # rows of the reference's vocabulary
    n_ctx: int  # context length of the reference
    tokens: TokenResult  # comparison of the tokenizers
    versions: Mapping[str, str]  # package → version of the libraries that ran the two models
    date: str  # ISO 8601, UTC
    context_tested: int = 0  # tokens of the longest window
    windows: tuple[Window, ...] = ()  # the compared windows
    metrics: Metrics | None = None  # None if the vocabularies differ
    positions: Positions | None = None  # figures of each position
    by_kind: Mapping[str, Metrics] = field(default_factory=dict)  # kind of window → its figures
    continuations: tuple[Continuation, ...] | None = None  # None if generating is too slow
    noise: Sensitivity | None = (
        None  # sensitivity to the type's noise; None if its limits are fixed
    )
    tanh_gelu: Sensitivity | None = None  # sensitivity to llama.cpp's GELU; None if no effect
    limits: VerifyLimits | None = None  # of the type for this model; None if they are unknown
    failures: tuple[Failure, ...] = ()  # all failed checks; empty if the candidate passed
    seconds: VerifySeconds = VerifySeconds()  # time spent
    tokens_per_second: float = 0.0  # measured speed of the candidate; 0 if it read no tokens
    findings: tuple[Finding, ...] = ()  # probable causes of the failures
    tensors: tuple[TensorError, ...] | None = None  # None if matrices were not compared
    rows_skipped: str = ""  # why matrices were not compared

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    @property
    def rows(self) -> int:
        """Number of compared rows of all tensors."""
        return sum(t.rows for t in self.tensors or ())

    def to_json(self) -> dict[str, Any]:
        """Return values for JSON; NaN and infinity in `tensors` become None."""
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
