"""The verdict: tokens first, then logits. Knows nothing of converters, torch, llama.cpp or terminals.

`compare` judges any two `LogitsSource`s; `verify` opens GGUF files and a checkpoint, or another GGUF, for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from turbopilot.base.errors import TurboPilotError
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.verify import hyperparameters
from turbopilot.verify.battery import token_battery
from turbopilot.verify.compare_logits import Clock, compare_logits, moved
from turbopilot.verify.compare_tokens import compare_tokens
from turbopilot.verify.continuations import continuations
from turbopilot.verify.criteria import Failure, failures, judged_type, limits_for, noise_of
from turbopilot.verify.diagnosis import diagnose
from turbopilot.verify.metrics import Place, summary
from turbopilot.verify.report import Report, Seconds
from turbopilot.verify.source import Change, LogitsSource, Reference, Window
from turbopilot.verify.tensor_errors import Expected, TensorError, tensor_errors
from turbopilot.verify.torch_model import Device
from turbopilot.verify.windows import (
    POSITIONS,
    windows_of,
    windows_of_change,
    windows_of_prompts,
)

_EXCERPT = 8  # tokens shown before a place

OpenExpected: TypeAlias = Callable[[], AbstractContextManager[Expected]]


@dataclass(frozen=True, slots=True)
class Options:
    """How much is compared, and how.

    Attributes:
        prompts: whose logits to compare; the built-in windows where not given.
        texts: name → text for the tokenizers, besides the built-in battery.
        positions: about how many are compared.
        full: the whole context, every position of it.
        device: where the reference runs.
        cache: folder for what the reference computes; None to keep nothing.
        tensors: compare every tensor too; by default only where something failed.
    """

    prompts: Sequence[str] | None = None
    texts: Mapping[str, str] | None = None
    positions: int = POSITIONS
    full: bool = False
    device: Device = field(default_factory=Device)
    cache: Path | None = None
    tensors: bool = False


_DEFAULT = Options()


def verify(
    candidates: Sequence[Path],
    against: Path,
    options: Options = _DEFAULT,
    *,
    expected: OpenExpected | None = None,
    progress: Progress = silent,
) -> Iterator[Report]:
    """Compare GGUF files with the checkpoint that they were made of, or with another GGUF; one report each.

    Args:
        candidates: the GGUF files.
        against: the Hugging Face folder, or a GGUF file.
        options: how much, and how.
        expected: opens what the files should hold, to find which tensor is wrong.
        progress: told of texts, then of positions.

    Raises:
        InvalidInput: a path cannot be used, or there is nothing to compare.
        CorruptModel: a candidate is no GGUF that llama.cpp can load.
        UnsupportedModel: transformers does not know the checkpoint's architecture.
        CorruptCheckpoint: the checkpoint is incomplete or damaged.
    """
    # Imported here: these bring in llama.cpp and torch.
    from turbopilot.verify.gguf_candidate import GgufCandidate
    from turbopilot.verify.gguf_reference import GgufReference

    # The headers first: milliseconds, and a bad path or an unknown type should not wait for torch.
    for path in candidates:
        header = read_gguf(path)
        check_model(header)
        noise_of(judged_type(header))
    progress(0, 1, "opening the reference")
    if against.is_file():
        reference: Reference = GgufReference(against, progress=progress)
    else:
        from turbopilot.verify.torch_reference import TorchReference

        reference = TorchReference(
            against, device=options.device, cache=options.cache, progress=progress
        )
    for path in candidates:
        with GgufCandidate(path) as gguf:
            versions = {**gguf.versions, **reference.versions, "numpy": np.__version__}
            report = compare(
                reference, gguf, gguf.header, options, versions=versions, progress=progress
            )
            yield explained(report, gguf.header, options, expected, progress)


def compare(
    reference: Reference,
    candidate: LogitsSource,
    header: GgufHeader,
    options: Options = _DEFAULT,
    *,
    texts: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Report:
    """Judge a candidate by the limits of its type. Arguments as for `verify`; `texts` replace the battery."""
    battery = token_battery() if texts is None else dict(texts)
    tokens = compare_tokens(reference, candidate, {**battery, **(options.texts or {})}, progress)
    before_logits = hyperparameters.differences(
        reference.hyperparameters, hyperparameters.of_gguf(header.metadata)
    )
    if failure := tokens.failure():
        before_logits.insert(0, failure)
    type_name = judged_type(header)
    report = Report(
        candidate=candidate.name,
        reference=reference.name,
        reference_files=reference.files,
        architecture=header.architecture,
        type_name=type_name,
        bits_per_weight=header.bits_per_weight,
        n_bytes=header.file_size,
        n_vocab=reference.n_vocab,
        n_ctx=reference.n_ctx,
        context_tested=0,
        tokens=tokens,
        windows=(),
        metrics=None,
        positions=None,
        by_kind={},
        continuations=None,
        noise=None,
        tanh_gelu=None,
        limits=None,
        failures=tuple(before_logits),
        seconds=Seconds(0.0, 0.0, 0.0, 0.0),
        tokens_per_second=0.0,
        versions=versions or {},
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    if candidate.n_vocab != reference.n_vocab:
        message = f"the GGUF has {candidate.n_vocab:,} vocabulary rows, the checkpoint {reference.n_vocab:,}"
        failure = Failure("vocabulary", message + ": logits cannot be compared")
        return replace(report, failures=(*report.failures, failure))
    n_ctx = min(reference.n_ctx, candidate.n_ctx)
    if options.prompts is None:
        windows = windows_of(reference, n_ctx, positions=options.positions, full=options.full)
    else:
        windows = windows_of_prompts(reference, options.prompts, n_ctx)
    return _with_logits(report, reference, candidate, windows, progress)


def explained(
    report: Report,
    header: GgufHeader,
    options: Options,
    expected: OpenExpected | None,
    progress: Progress = silent,
) -> Report:
    """The report with what its failures come from.

    Norms and biases are compared always; every tensor where that is wanted, or something failed.
    """
    everything = options.tensors or bool(report.failures)
    tensors: tuple[TensorError, ...] = ()
    should: dict[str, Any] = {}
    if expected:
        try:
            with expected() as whole:
                found = tensor_errors(header, whole, progress, only_vectors=not everything)
                tensors, should = tuple(found), dict(whole.metadata)
        except TurboPilotError:
            if options.tensors:
                raise  # else the verdict of the logits stands without it
            everything = False
    if not report.failures:
        wrong = [t for t in tensors if t.wrong][:_EXCERPT]
        lost = tuple(Failure("tensors", f"{t.name} {t.detail}") for t in wrong)
        report = replace(report, failures=lost)
    findings = diagnose(
        report.failures, report.positions, report.limits, header.metadata,
        expected=should, tensors=tensors,
    )  # fmt: skip
    return replace(report, tensors=tensors if everything else None, findings=tuple(findings))


def _with_logits(
    report: Report,
    reference: Reference,
    candidate: LogitsSource,
    windows: Sequence[Window],
    progress: Progress,
) -> Report:
    clock = Clock()
    with clock("reference"):
        reference.prepare(windows, progress)
    p = compare_logits(reference, candidate, windows, progress, clock)
    metrics = summary(p)
    with clock("limits"):
        beginnings = windows_of_change(windows)
        tanh = moved(reference, Change(tanh_gelu=True), beginnings, progress)
        noise = noise_of(report.type_name)
        noisy = moved(reference, Change(noise=noise), beginnings, progress) if noise else None
        judged = noise is None or noisy is not None
        limits = limits_for(report.type_name, noisy, tanh) if judged else None

    def describe(place: Place) -> str:
        return _describe(place, windows, reference)

    found = failures(metrics, limits, report.type_name, describe)
    kinds = [w.kind for w in windows]
    of_kind = np.asarray([kinds.index(kind) for kind in kinds])[p.window]
    return replace(
        report,
        context_tested=max(len(w.ids) for w in windows),
        windows=tuple(windows),
        metrics=metrics,
        positions=p,
        by_kind={
            kind: summary(p.where(of_kind == kinds.index(kind))) for kind in dict.fromkeys(kinds)
        },
        continuations=continuations(reference, candidate, windows, progress),
        noise=noisy,
        tanh_gelu=tanh,
        limits=limits,
        failures=(*report.failures, *found),
        seconds=Seconds(**{name: clock.seconds.get(name, 0.0) for name in Seconds.__slots__}),
        tokens_per_second=sum(len(w.ids) for w in windows) / max(clock.seconds["candidate"], 1e-9),
    )


def _describe(place: Place, windows: Sequence[Window], reference: LogitsSource) -> str:
    window = windows[place.window]
    before = reference.text(window.ids[max(0, place.position + 1 - _EXCERPT) : place.position + 1])
    token = reference.text([place.token])
    where = f"in {window.name!r} at position {place.position}, after {before!r}"
    return f"{where}, for token {place.token} ({token!r})"
