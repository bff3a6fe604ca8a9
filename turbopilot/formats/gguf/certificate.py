"""Certificates: the result of a verification, stored in the metadata of the verified file.

A certificate contains the measurements and the digests of tensors and metadata, so that a later change or damage is
detected. It does not prove who created it: any program that can write the file can write another certificate. To be
sure, verify the file again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from turbopilot.base.errors import InvalidInput
from turbopilot.base.file_digest import is_digest
from turbopilot.base.progress import Progress, silent
from turbopilot.base.quoting import quoted
from turbopilot.formats.gguf.digest import CERTIFICATE, Digests, digests, remembered_digests
from turbopilot.formats.gguf.edit import Writable, check_editable, set_metadata
from turbopilot.formats.gguf.file import GgufHeader, read_gguf

__all__ = [
    "Certificate", "Digests", "State", "check", "digests", "judge", "read", "remembered_digests", "sign",
]  # fmt: skip

_FORMAT = 1  # version of these keys; certificates of other versions are ignored
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", re.ASCII)

State: TypeAlias = Literal["none", "valid", "tensors changed", "metadata changed"]

SENTENCES: Final[dict[State, str]] = {
    "none": "it has no certificate",
    "valid": "unchanged since the verification",
    "tensors changed": "its tensors changed after the verification; verify it again",
    "metadata changed": "its metadata changed after the verification; verify it again",
}
"""State → description."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Result of a verification; the figures are defined in `turbopilot.verify.metrics`."""

    passed: bool  # the verdict
    reference: str  # the checkpoint's name
    reference_files: tuple[str, ...]  # the checkpoint's files, each as "sha256  name"
    type_name: str  # the type that the file was judged as
    positions: int  # number of compared positions
    max_context: int  # tokens of the longest compared prompt
    mean_kl: float  # in nats
    max_kl: float  # in nats
    top1: float  # share of positions with the same first choice
    nmse: float  # of the logits
    reference_perplexity: float  # of the checkpoint
    candidate_perplexity: float  # of the file
    limits: str  # limits of the verdict, as text
    versions: tuple[str, ...]  # of the libraries that ran the models, each as "name version"
    date: str  # UTC, ISO 8601
    tensors_sha256: str  # see `Digests`
    metadata_sha256: str  # see `Digests`
    compared_tensors: int = 0  # of which every row was compared; 0 if only norms and biases were
    completions: tuple[str, ...] = ()  # result of each set of programming tasks, as text

    @property
    def digests(self) -> Digests:
        """Digests of the verified file."""
        return Digests(self.tensors_sha256, self.metadata_sha256)


# Annotation of a field → function that returns whether a value is valid.
_FITS: Final[dict[str, Callable[[Any], bool]]] = {
    "bool": lambda v: type(v) is bool,
    "int": lambda v: type(v) is int and 0 <= v < 1 << 64,
    "float": lambda v: type(v) is float and math.isfinite(v),
    "str": lambda v: isinstance(v, str),
    "tuple[str, ...]": lambda v: isinstance(v, tuple) and all(isinstance(e, str) for e in v),
}


def _unfit(values: dict[str, Any]) -> str:
    """Return the first field with an invalid value; "" if there is none."""
    for field in fields(Certificate):
        value = values.get(field.name)
        if not _FITS[str(field.type)](value):
            return field.name
        if field.name.endswith("_sha256") and not is_digest(value):
            return field.name
    return "" if _DATE.fullmatch(values["date"]) else "date"


def read(header: GgufHeader) -> Certificate | None:
    """Return a file's certificate; None if it has none or an invalid one.

    Use `check` to find out whether the file has changed since the verification.
    """
    said = header.metadata
    version = said.get(CERTIFICATE + "format")
    if type(version) is not int or version != _FORMAT:
        return None
    values: dict[str, Any] = {}
    for field in fields(Certificate):
        value = said.get(
            CERTIFICATE + field.name, None if field.default is MISSING else field.default
        )
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return None if _unfit(values) else Certificate(**values)


def sign(path: Path, certificate: Certificate, progress: Progress = silent) -> None:
    """Write a certificate to a file's metadata, replacing an older one; tensors do not change.

    Compute the certificate's digests before the verification, so that a file that is replaced meanwhile is not signed.
    For a split model, pass the first part; only this part is written.

    Raises:
        InvalidInput: the certificate is invalid or belongs to another file, or the file must not be changed.
        CorruptModel: the file is not a usable GGUF.
        NotEnoughDisk: there is no space for a second copy. The old file is unchanged.
    """
    check_editable(path)
    header = read_gguf(path)
    values = {field.name: getattr(certificate, field.name) for field in fields(Certificate)}
    if unfit := _unfit(values):
        raise InvalidInput(
            f"{path}: invalid value in the certificate: {unfit} = {quoted(values[unfit])}"
        )
    n_read, n_written = header.tensor_bytes, path.stat().st_size
    total = n_read + n_written

    def checking(done: int, _: int, what: str = "", /) -> None:
        progress(done, total, what)

    def writing(done: int, of: int, what: str = "", /) -> None:
        progress(n_read + done * n_written // of, total, what)

    if digests(header, checking) != certificate.digests:
        raise InvalidInput(f"{path}: has changed since the verification", hint="verify it again")
    keys: dict[str, Writable] = {CERTIFICATE + "format": _FORMAT}
    for name, value in values.items():
        keys[CERTIFICATE + name] = list(value) if isinstance(value, tuple) else value
    set_metadata(path, keys, remove=CERTIFICATE, progress=writing)


def check(header: GgufHeader, progress: Progress = silent) -> State:
    """Return whether a file still matches its certificate; if it has one, the whole file is read."""
    certificate = read(header)
    return judge(certificate, digests(header, progress)) if certificate else "none"


def judge(certificate: Certificate, found: Digests) -> State:
    """Return whether digests match a certificate."""
    if found.tensors != certificate.tensors_sha256:
        return "tensors changed"
    return "valid" if found.metadata == certificate.metadata_sha256 else "metadata changed"
