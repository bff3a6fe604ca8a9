"""What verify found, as values. Knows nothing of models, files or terminals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from turbopilot.verify.criteria import Failure, Limits
from turbopilot.verify.metrics import Metrics


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


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict on one candidate, and everything that it rests on.

    Attributes:
        candidate: the GGUF file.
        reference: the checkpoint's folder.
        architecture: `general.architecture` of the GGUF.
        type_name: what the file is judged as.
        bits_per_weight: of the whole file.
        n_vocab: rows of the reference's vocabulary.
        tokens: the token battery.
        prompts: how many prompts were compared.
        metrics: of the logits; None where they cannot be compared (another vocabulary).
        noise: how far the reference itself is moved by noise as large as the type's; None where the type's
            limits are fixed.
        tanh_gelu: how far it is moved by llama.cpp's GELU; None where it computes the same.
        limits: what the type may have with this model; None where logits cannot be compared.
        failures: each limit that was missed; none: the candidate passed.
        versions: package → version of what ran the two models.
    """

    candidate: str
    reference: str
    architecture: str
    type_name: str
    bits_per_weight: float
    n_vocab: int
    tokens: TokenResult
    prompts: int
    metrics: Metrics | None
    noise: Metrics | None
    tanh_gelu: Metrics | None
    limits: Limits | None
    failures: tuple[Failure, ...]
    versions: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """The verdict."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain values for one JSON object; no NaN or inf among them."""
        plain = asdict(self)
        plain["versions"] = dict(self.versions)
        return {"passed": self.passed, **plain}
