"""Texts of `inspect` and `serve` about a model file's certificate."""

from __future__ import annotations

from collections.abc import Iterator
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
from turbopilot.formats.gguf.file import read_gguf

_WIDE = 80  # characters of a certificate's text to show
_RAN = ("torch", "transformers", "llama-cpp-python")


def state_of(path: Path, reporter: Reporter) -> State:
    """Return the state of the certificate; reads the whole file if there is one."""
    header = read_gguf(path)
    if read(header) is None:
        return "none"
    with reporter.progress("check") as progress:
        return check(header, progress)


def lines(path: Path, certificate: Certificate, state: State) -> Iterator[tuple[str, str]]:
    """Yield the certificate as labels and texts."""
    c = certificate
    if state != "valid":
        yield "verified", f"no longer: {SENTENCES[state]}: {_command(path)}"
        yield "", f"it {'was verified' if c.passed else 'failed'} {_against(c)}"
    else:
        yield "verified", f"{'yes:' if c.passed else 'no: it failed'} {_against(c)}"
    yield "", _figures(c)
    if state == "valid":
        yield "", f"tensors and metadata are {SENTENCES[state]}"


def at_start(path: Path, reporter: Reporter) -> str:
    """Return a line for the server's start; "" if there is nothing to report.

    Reads only the header if there is no certificate, or if the file has not changed since its last check.
    """
    header = read_gguf(path)
    certificate = read(header)
    if certificate is None:
        # Cached artifacts are not meant to be verified.
        ours = path.resolve().is_relative_to(cache_folder().resolve())
        return "" if ours else f"not verified: {_command(path)}"
    with reporter.progress("check") as progress:
        found = remembered_digests(header, cache_folder(), progress)
    state = judge(certificate, found)
    if state != "valid":
        return f"the certificate of {path} no longer holds: {SENTENCES[state]}: {_command(path)}"
    if not certificate.passed:
        return f"not verified: it failed {_against(certificate)}"
    return f"verified: {_against(certificate)}; {_figures(certificate)}"


def _command(path: Path) -> str:
    # Files in the Hub's cache can be verified, but not written.
    sign = "" if in_hub_cache(path) else " --sign"
    return f"turbopilot verify {path} --against CHECKPOINT{sign}"


def _against(c: Certificate) -> str:
    ran = [v for v in c.versions if v.partition(" ")[0] in _RAN]
    how = f" with {_short(', '.join(ran))}" if ran else ""
    return f"against {_short(c.reference)} on {c.date[:10]}{how}"


def _figures(c: Certificate) -> str:
    return (
        f"{_short(c.type_name)}, {c.positions:,} positions, mean KL {c.mean_kl:.2e}, top-1 {c.top1:.2%}, "
        f"perplexity {c.reference_perplexity:.5g} → {c.candidate_perplexity:.5g}"
    )


def _short(text: str) -> str:
    """Shorten to one line; the console escapes terminal codes."""
    line = " ".join(text.split())
    return line if len(line) <= _WIDE else f"{line[:_WIDE]}…"
