"""Verification of GGUF files: compare tokens first, then logits, and return a verdict.

`compare` judges any `LogitsSource` by a `ReferenceModel`; `verify` opens the GGUF files and their reference (a
checkpoint or another GGUF) and calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.base.counts import count
from turbopilot.base.errors import InvalidInput, TurboPilotError
from turbopilot.base.file_digest import SourceWatch
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.formats.gguf.split import files_of
from turbopilot.llama.placement_wish import PlacementWish
from turbopilot.verify import hyperparameters, tokenizer_files
from turbopilot.verify.comparison import (
    compare_logits,
    compare_tokens,
    continuations,
    sensitivity,
    timed,
)
from turbopilot.verify.criteria import (
    DEVICE_NOISE,
    ROUTING_NOISE,
    Failure,
    failures,
    judged_type,
    limits_for,
    noise_of,
)
from turbopilot.verify.diagnosis import diagnose
from turbopilot.verify.metrics import Place, summary
from turbopilot.verify.report import VerifyReport, VerifySeconds
from turbopilot.verify.source import Change, LogitsSource, ReferenceModel, Window
from turbopilot.verify.tensor_errors import TargetModel, TensorError, tensor_errors
from turbopilot.verify.texts import token_battery
from turbopilot.verify.torch_model import TorchDevice
from turbopilot.verify.windows import (
    POSITIONS,
    windows_of,
    windows_of_change,
    windows_of_prompts,
)

_EXCERPT = 8  # tokens shown before a place
_CPU = TorchDevice()

OpenTarget: TypeAlias = Callable[[], AbstractContextManager[TargetModel]]


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """Scope and device of a comparison."""

    prompts: Sequence[str] | None = None  # compare logits on these; by default on built-in windows
    texts: Mapping[str, str] | None = None  # to tokenize, by name; by default the built-in battery
    positions: int = POSITIONS  # approximate number of compared positions
    full: bool = False  # compare the whole context, every position of it
    device: TorchDevice = _CPU  # runs the reference
    cache: Path | None = None  # folder for the reference's results; None to keep nothing
    placement: PlacementWish = PlacementWish(0)  # noqa: RUF009 — frozen; where the candidates' layers go
    tensors: bool = True  # compare every row of every tensor; otherwise only norms and biases
    # The importance matrix that the files were quantized with; see `tensor_errors`.
    importance: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


_DEFAULT = VerifyOptions()


def verify(
    candidates: Sequence[Path],
    against: Path,
    options: VerifyOptions = _DEFAULT,
    *,
    target: OpenTarget | None = None,
    progress: Progress = silent,
) -> Iterator[VerifyReport]:
    """Compare GGUF files with the checkpoint they were converted from, or with another GGUF; yield one report each.

    Args:
        candidates: the GGUF files.
        against: the reference, a Hugging Face checkpoint folder or a GGUF file.
        options: scope of the comparison.
        target: opens the expected contents of the files, to find wrong tensors.
        progress: called for texts, then for positions.

    Raises:
        InvalidInput: a path cannot be used, or there is nothing to compare.
        CorruptModel, CorruptCheckpoint, UnsupportedModel: a model cannot be run.
    """
    # Imported here because they import llama.cpp and torch.
    from turbopilot.verify.gguf_candidate import GgufCandidate
    from turbopilot.verify.gguf_reference import GgufReference

    # Check the headers first, so that a bad path or an unknown type is reported before torch is imported.
    for path in candidates:
        header = read_gguf(path)
        check_model(header)
        noise_of(judged_type(header))
    progress(0, 1, "opening the reference")
    if against.is_file():
        reference: ReferenceModel = GgufReference(against, progress=progress)
    else:
        from turbopilot.verify.torch_reference import TorchReference

        reference = TorchReference(
            against, device=options.device, cache=options.cache, progress=progress
        )
    for path in candidates:
        # Tensors are read again to find causes: a file that is replaced meanwhile would get false ones.
        watch = SourceWatch(files_of(path))
        with GgufCandidate(path, wish=options.placement) as gguf:
            versions = {**gguf.versions, **reference.versions, "numpy": np.__version__}
            report = compare(reference, gguf, gguf.header, options, progress)
            report = replace(report, versions=versions)
            report = explained(report, gguf.header, options, target, progress)
            watch.check(files_of(path))
            yield report


def compare(
    reference: ReferenceModel,
    candidate: LogitsSource,
    header: GgufHeader,
    options: VerifyOptions = _DEFAULT,
    progress: Progress = silent,
) -> VerifyReport:
    """Judge a candidate by the limits of its type. The arguments are those of `verify`."""
    texts = token_battery() if options.texts is None else options.texts
    tokens = compare_tokens(reference, candidate, texts, progress)
    found = [f for f in (tokens.failure(),) if f]
    found += hyperparameters.differences(
        reference.hyperparameters, hyperparameters.of_gguf(header.metadata)
    )
    found += tokenizer_files.differences(reference.tokenizer_files, header.metadata)
    report = VerifyReport(
        candidate=candidate.name,
        reference=reference.name,
        reference_files=reference.files,
        architecture=header.architecture,
        type_name=judged_type(header),
        bits_per_weight=header.bits_per_weight,
        n_bytes=header.file_size,
        n_vocab=reference.n_vocab,
        n_ctx=reference.n_ctx,
        tokens=tokens,
        failures=tuple(found),
        versions=reference.versions,
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
    on_devices = options.placement.n_gpu_layers != 0
    return _with_logits(report, reference, candidate, windows, progress, on_devices=on_devices)


def explained(
    report: VerifyReport,
    header: GgufHeader,
    options: VerifyOptions,
    target: OpenTarget | None,
    progress: Progress = silent,
) -> VerifyReport:
    """Return the report with the probable causes of its failures.

    Norms and biases are always compared; matrices are too, unless `options.tensors` is false and nothing failed.
    """
    everything = options.tensors or bool(report.failures)
    skipped = "" if everything else "--no-tensors"
    tensors: tuple[TensorError, ...] = ()
    should: Mapping[str, Any] = {}
    if target:
        try:
            with target() as whole:
                found = tensor_errors(
                    header, whole, progress,
                    only_vectors=not everything, importance=options.importance,
                )  # fmt: skip
                tensors, should = tuple(found), dict(whole.metadata)
        except TurboPilotError as e:
            everything, skipped = False, e.message  # the verdict depends on the logits alone
    if wrong := [t for t in tensors if t.wrong]:
        more = f" (and {count(len(wrong) - 1, 'more tensor')})" if len(wrong) > 1 else ""
        failure = Failure("tensors", f"{wrong[0].name} {wrong[0].detail}{more}")
        report = replace(report, failures=(*report.failures, failure))
    tried = [t.reproduced for t in tensors if t.reproduced is not None]
    if report.passed and 2 * sum(tried) < len(tried):
        raise InvalidInput(
            f"{header.path}: {len(tried) - sum(tried)} of {len(tried)} tensors were not quantized with this importance "
            "matrix, or by another version of llama.cpp",
            hint="give the matrix that the file was quantized with, or leave out --imatrix",
        )
    findings = diagnose(report, header.metadata, should, tensors)
    compared = tensors if everything and target else None
    return replace(report, tensors=compared, rows_skipped=skipped, findings=tuple(findings))


def _with_logits(
    report: VerifyReport,
    reference: ReferenceModel,
    candidate: LogitsSource,
    windows: Sequence[Window],
    progress: Progress,
    *,
    on_devices: bool,
) -> VerifyReport:
    seconds: dict[str, float] = {}
    with timed(seconds, "reference"):
        reference.prepare(windows, progress)
    p = compare_logits(reference, candidate, windows, progress, seconds)
    metrics = summary(p)
    with timed(seconds, "limits"):
        short = windows_of_change(windows)
        tanh = sensitivity(reference, Change(tanh_gelu=True), short, progress)
        noise = noise_of(report.type_name)
        noisy = sensitivity(reference, Change(noise=noise), short, progress) if noise else None
        judged = noise is None or noisy is not None
        # rounded activations choose other experts; F32's are too exact for that to matter
        routed = report.type_name == "F16" and reference.hyperparameters.get("expert_count", 0) > 1
        change = Change(noise=ROUTING_NOISE)
        routing = sensitivity(reference, change, short, progress) if routed else None
        change = Change(noise=DEVICE_NOISE)
        rounds = on_devices and not noise
        device = sensitivity(reference, change, short, progress) if rounds else None
        limits = limits_for(report.type_name, noisy, tanh, routing, device) if judged else None

    def describe(place: Place) -> str:
        window = windows[place.window]
        start, end = max(0, place.position + 1 - _EXCERPT), place.position + 1
        before, token = reference.text(window.ids[start:end]), reference.text([place.token])
        where = f"in {window.name!r} at position {place.position}, after {before!r}"
        return f"{where}, for token {place.token} ({token!r})"

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
        failures=(*report.failures, *failures(metrics, limits, report.type_name, describe)),
        seconds=VerifySeconds(**seconds),
        tokens_per_second=sum(len(w.ids) for w in windows) / max(seconds["candidate"], 1e-9),
    )
