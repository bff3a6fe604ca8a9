"""Texts about a model file's certificate, for `inspect` and `serve`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from turbopilot.base.cache_folder import cache_folder
from turbopilot.base.progress import Reporter
from turbopilot.formats.gguf.certificate import (
    SENTENCES,
    Certificate,
    State,
    check,
    judge,
    read,
    remembered_digests,
)
from turbopilot.formats.gguf.edit import in_hub_cache
from turbopilot.formats.gguf.file import GgufHeader, read_gguf

_WIDE = 120  # maximum characters to show of a text in a certificate
MOST_TASKS = 8  # maximum sets of tasks to show
_RAN = ("torch", "transformers", "llama-cpp-python")


@dataclass(frozen=True, slots=True)
class Certified:
    """A model file's certificate, None if it has none, and whether the file has changed since."""

    path: Path
    certificate: Certificate | None
    state: State


def certified(path: Path, reporter: Reporter) -> Certified:
    """Return a file's certificate and its state; read the whole file if it has one."""
    header = read_gguf(path)
    return Certified(path, read(header), _checked(header, reporter))


def state_of(path: Path, reporter: Reporter) -> State:
    """Return the state of the file's certificate; read the whole file if it has one."""
    return _checked(read_gguf(path), reporter)


def _checked(header: GgufHeader, reporter: Reporter) -> State:
    if read(header) is None:
        return "none"
    with reporter.progress("check") as progress:
        return check(header, progress)


def lines(path: Path, certificate: Certificate, state: State) -> Iterator[tuple[str, str]]:
    """Yield the lines that describe a certificate, each as a label and a text."""
    c = certificate
    if state != "valid":
        yield "verified", f"no longer: {SENTENCES[state]}: {_command(path)}"
        yield "", f"the file {'was verified' if c.passed else 'failed'} {_against(c)}"
    else:
        yield "verified", f"{'yes:' if c.passed else 'no: the file failed'} {_against(c)}"
    yield "", _figures(c)
    yield "", _rows(c)
    for text in c.completions[:MOST_TASKS]:
        yield "", _short(text)
    if state == "valid":
        yield "", f"tensors and metadata are {SENTENCES[state]}"


def at_start(path: Path, reporter: Reporter) -> str:
    """Return the line about a certificate that the server logs when it starts, or "" for a cached artifact without one.

    Only the header is read if the file has no certificate, or has not changed since its last check.
    """
    header = read_gguf(path)
    certificate = read(header)
    if certificate is None:
        # Cached artifacts need no certificate.
        ours = path.resolve().is_relative_to(cache_folder().resolve())
        return "" if ours else f"not verified; to verify the file, run {_command(path)}"
    state = _remembered(header, certificate, reporter)
    if state != "valid":
        return f"the certificate of {path} is no longer valid: {SENTENCES[state]}: {_command(path)}"
    if not certificate.passed:
        return f"not verified: the file failed {_against(certificate)}"
    return f"verified: {_all(certificate)}"


def of_valid(header: GgufHeader, reporter: Reporter) -> str:
    """Return the line about a file's certificate; "" if the file has no valid certificate, or has failed.

    The file is read only if it has changed since its last check.
    """
    certificate = read(header)
    if certificate is None or not certificate.passed:
        return ""
    is_valid = _remembered(header, certificate, reporter) == "valid"
    return _all(certificate) if is_valid else ""


def _remembered(header: GgufHeader, certificate: Certificate, reporter: Reporter) -> State:
    with reporter.progress("check") as progress:
        return judge(certificate, remembered_digests(header, cache_folder(), progress))


def _command(path: Path) -> str:
    # Files in the Hub's cache must not be changed, so they cannot be signed.
    sign = "" if in_hub_cache(path) else " --sign"
    return f"turbopilot verify {path} --against CHECKPOINT{sign}"


def _against(c: Certificate) -> str:
    ran = [v for v in c.versions if v.partition(" ")[0] in _RAN]
    how = f" with {_short(', '.join(ran))}" if ran else ""
    return f"against {_short(c.reference)} on {c.date[:10]}{how}"


def _all(c: Certificate) -> str:
    return "; ".join([_against(c), _figures(c), _rows(c), *map(_short, c.completions[:MOST_TASKS])])


def _figures(c: Certificate) -> str:
    return (
        f"{_short(c.type_name)}, {c.positions:,} positions, mean KL {c.mean_kl:.2e}, top-1 {c.top1:.2%}, "
        f"perplexity {c.reference_perplexity:.5g} → {c.candidate_perplexity:.5g}"
    )


def _rows(c: Certificate) -> str:
    """Return whether the rows of all tensors were compared with the checkpoint's."""
    return (
        f"all rows of {c.compared_tensors:,} tensors compared"
        if c.compared_tensors
        else "rows of tensors not compared"
    )


def _short(text: str) -> str:
    """Return the text on one line, shortened; the console escapes terminal codes."""
    line = " ".join(text.split())
    return line if len(line) <= _WIDE else f"{line[:_WIDE]}…"
