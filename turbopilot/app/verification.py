"""Verification of model files: resolve names, compare files with their checkpoint, write certificates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.app.cached_artifacts import imported
from turbopilot.app.resolve import DEMO, demo_checkpoint, resolve_checkpoint, resolve_gguf
from turbopilot.base.errors import InvalidInput, QuantizationError
from turbopilot.base.progress import Reporter
from turbopilot.formats.gguf.certificate import Certificate, sign
from turbopilot.formats.gguf.digest import Digests, digests
from turbopilot.formats.gguf.edit import check_editable
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.formats.old_ggml import is_old
from turbopilot.tasks.report import TaskReport
from turbopilot.verify import VerifyOptions, VerifyReport, verify
from turbopilot.verify.tensor_errors import TargetModel, TargetTensor, gguf_target
from turbopilot.verify.verification import OpenTarget

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VerifiedFiles:
    """Result of a comparison of GGUF files with their reference.

    Attributes:
        against: the reference as given on the command line.
        reference: checkpoint folder or GGUF file.
        reports: one report per file.
        digests: digest of each file to sign, computed before the comparison, so that a file that changed since cannot
            be signed.
    """

    against: str
    reference: Path
    reports: list[VerifyReport]
    digests: Mapping[Path, Digests]


def verify_files(
    candidates: Sequence[Path],
    against: str,
    options: VerifyOptions,
    reporter: Reporter,
    *,
    sign: bool = False,
    imatrix: Path | None = None,
) -> VerifiedFiles:
    """Compare files with a checkpoint or a GGUF file; `sign` prepares them for `sign_passed`.

    `imatrix` is the importance matrix that the files were quantized with.

    Raises:
        InvalidInput: a file cannot be found or signed, or the importance matrix is of another model.
    """
    reference = _resolve_reference(against, reporter)
    if sign and reference.is_file():
        raise InvalidInput(
            f"--sign with --against {against}: only a comparison with a checkpoint can be signed",
            hint="give the checkpoint, or leave out --sign",
        )
    files = [_resolve_candidate(path, reference, reporter) for path in candidates]
    if imatrix:
        options = replace(options, importance=_importance(imatrix, files))
    before = _digests(files, reporter) if sign else {}
    with reporter.progress("verify") as progress:
        target = target_of(reference)
        reports = list(verify(files, reference, options, target=target, progress=progress))
    if reference == demo_checkpoint():
        reports = [replace(r, reference=DEMO) for r in reports]
    return VerifiedFiles(against, reference, reports, before)


def sign_passed(
    verified: VerifiedFiles, reporter: Reporter, tasks: Sequence[TaskReport] = ()
) -> Iterator[Path]:
    """Write a certificate into each file that passed and has a digest, and yield its path.

    `tasks` are results of programming tasks, of any of the files.
    """
    for report in verified.reports:
        path = Path(report.candidate)
        if report.passed and path in verified.digests:
            with reporter.progress("sign") as progress:
                certificate = _certificate(report, verified.digests[path], verified.against)
                lines = tuple(t.line for t in tasks if t.candidate == report.candidate)
                certificate = replace(certificate, completions=lines)
                sign(path, certificate, progress)
            yield path


def _digests(files: Sequence[Path], reporter: Reporter) -> dict[Path, Digests]:
    for path in files:
        check_editable(path)
    with reporter.progress("digest") as progress:
        return {path: digests(path, progress) for path in files}


def _importance(path: Path, files: Sequence[Path]) -> dict[str, Floats]:
    """Return the values of an importance matrix of these files; see `tensor_errors`."""
    from quantize.imatrix import check_matrix, read_imatrix

    matrix = read_imatrix(path)
    try:
        for file in files:
            check_matrix(matrix, read_gguf(file))
    except QuantizationError as e:
        raise InvalidInput(
            f"{path}: {e.message}", hint="give the matrix that the file was quantized with"
        ) from e
    return matrix.means()


def _resolve_reference(against: str, reporter: Reporter) -> Path:
    """Return the reference: a checkpoint folder or a GGUF file. Old ggml files are imported first."""
    path = Path(against).expanduser()
    if is_old(path):
        return resolve_gguf(str(path), reporter)
    if path.is_file() and path.suffix == ".gguf":
        return path
    return resolve_checkpoint(against, reporter)


def _resolve_candidate(path: Path, reference: Path, reporter: Reporter) -> Path:
    """Return the GGUF file to verify. Old ggml files are imported first.

    If an old file's vocabulary has lost bytes, the checkpoint's tokenizer is used, after comparing the two.
    """
    if not is_old(path):
        return path
    from converters.legacy_ggml import TokenizerNeeded

    try:
        return imported(path, reporter)
    except TokenizerNeeded as e:
        if not reference.is_dir():
            raise
        reporter.notify(f"{e.message}; using the tokenizer of {reference}")
        return imported(path, reporter, tokenizer=reference)


def target_of(reference: Path) -> OpenTarget:
    """Return a function that opens the expected content of a GGUF made from this checkpoint or GGUF file."""
    return partial(gguf_target if reference.is_file() else _checkpoint_target, reference)


@contextmanager
def _checkpoint_target(folder: Path) -> Iterator[TargetModel]:
    """Yield the metadata and tensors that the converter would write for a checkpoint."""
    from converters import expected

    with expected(folder) as whole:
        tensors = [TargetTensor(t.name, t.shape, t.source, t.order, t.read) for t in whole.tensors]
        yield TargetModel(whole.metadata, tensors)


def _certificate(report: VerifyReport, digests: Digests, reference: str) -> Certificate:
    """Return the certificate of a comparison with a checkpoint.

    Args:
        report: result with logits and limits.
        digests: digest of the file, computed before the comparison.
        reference: name of the checkpoint. Of a local path, only the last part is published.

    """
    m, limits = report.metrics, report.limits
    if m is None or limits is None:
        raise AssertionError("only a comparison with limits is signed")
    files = report.reference_files.items()
    return Certificate(
        passed=report.passed,
        reference=Path(reference).resolve().name if Path(reference).exists() else reference,
        reference_files=tuple(f"{digest}  {name}" for name, digest in files),
        type_name=report.type_name,
        positions=m.positions,
        max_context=report.context_tested,
        mean_kl=float(m.mean_kl),
        max_kl=float(m.max_kl),
        top1=float(m.top1),
        nmse=float(m.nmse),
        reference_perplexity=m.reference_perplexity.value,
        candidate_perplexity=m.candidate_perplexity.value,
        limits=f"NMSE ≤ {limits.nmse:.2g}, mean KL ≤ {limits.mean_kl:.2g}, clear top-1 ≥ {limits.clear_top1:.2%} "
        f"({limits.origin})",
        versions=tuple(f"{name} {version}" for name, version in report.versions.items()),
        date=report.date,
        tensors_sha256=digests.tensors,
        metadata_sha256=digests.metadata,
        compared_tensors=len(report.tensors or ()),
    )
