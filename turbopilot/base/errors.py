"""Errors that a user can fix, with exit codes and hints.

Library code raises these errors; the command line and the HTTP server convert them to text and to an exit code or
status.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final

from turbopilot.base.quoting import shortened

MOST_CHARACTERS: Final = 50_000


class TurboPilotError(Exception):
    """Base class of all errors shown to the user.

    `message` states what happened and in which file, tensor or field; `hint` states what to do. It is cut to
    `MOST_CHARACTERS`, as lists of faults in a stranger's file have no end.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        message = shortened(message, MOST_CHARACTERS)
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInput(TurboPilotError):
    """A path, name or option cannot be used."""

    exit_code = 2


class CorruptModel(InvalidInput):
    """A model file is not a GGUF, is truncated, or llama.cpp cannot load it."""


class DownloadError(TurboPilotError):
    """A model could not be downloaded."""

    exit_code = 3


class ModelNotFound(DownloadError):
    """The Hub has no such repository, revision or file, or denies access to it."""


class HubUnreachable(DownloadError):
    """The network failed, or the Hub did not answer."""


class NotEnoughDisk(DownloadError):
    """The output does not fit on the disk."""


class UnsupportedModel(TurboPilotError):
    """The checkpoint cannot be converted correctly; `reasons` lists all causes."""

    exit_code = 4

    def __init__(self, message: str, *, reasons: Iterable[str] = (), hint: str = "") -> None:
        self.reasons = tuple(reasons)
        super().__init__("\n  ".join((message, *self.reasons)), hint=hint)


class ConversionError(TurboPilotError):
    """A checkpoint with a supported architecture cannot be read, or the output cannot be written."""

    exit_code = 5


class TensorMismatch(ConversionError):
    """Tensors are missing, unknown, NaN or infinite, or have the wrong shape; the message lists them all."""


class TokenizerMismatch(ConversionError):
    """The tokenizer cannot be expressed in GGUF without changing token ids."""


class CorruptCheckpoint(ConversionError):
    """A file of the checkpoint is truncated, inconsistent or malicious."""


class QuantizationError(TurboPilotError):
    """llama.cpp could not quantize the model."""

    exit_code = 6


class VerificationFailed(TurboPilotError):
    """A candidate differs from the reference by more than its type allows."""

    exit_code = 7


class ServeError(TurboPilotError):
    """The server cannot start, or a request cannot be served."""

    exit_code = 8


class MemoryShort(ServeError):
    """A device, or main memory, has no room for a model or its context."""


class ContextLengthExceeded(ServeError):
    """The prompt does not fit in the model's context."""


class Overloaded(ServeError):
    """The queue is full, or the server is shutting down; try again after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: int = 1, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class InvalidRequest(ServeError):
    """The value of a request's field `param` is invalid."""

    def __init__(self, message: str, *, param: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param


class AdaptersFixed(ServeError):
    """A request changes the scales of LoRA adapters, which the server does not allow."""


class UnsupportedEncoding(ServeError):
    """The body of a request is compressed."""


class UnknownModel(InvalidRequest):
    """A request asks for a model that the server does not have."""


class NotSupported(ServeError):
    """A request needs something that the server does not do, such as embeddings."""


class Unauthorized(ServeError):
    """A request has no valid API key."""


class OriginRefused(ServeError):
    """A request comes from a web page of another origin that is not allowed."""


class HostRefused(ServeError):
    """A request has the Host header of another host, as after DNS rebinding."""


class NoKvSlot(ServeError):
    """llama_decode found no room in the KV cache (code 1); retryable with a smaller batch."""


class DecodeAborted(ServeError):
    """llama_decode was interrupted (code 2); its results for the batch are undefined."""


class BadBatch(ServeError):
    """llama_decode rejected the batch (code -1) without changing any state."""


class DecoderFailed(ServeError):
    """llama_decode failed in a way that cannot be retried (codes below -1)."""


class UnusableLogits(DecoderFailed):
    """The model computed NaN or infinite logits: its file is damaged or was quantized too coarsely."""


class ModelChanged(ServeError):
    """A model file was truncated or overwritten while the server uses it."""


class DeviceLost(ServeError):
    """A worker that has a part of the model is gone."""


class UpstreamFailed(ServeError):
    """An engine on another machine did not answer a request, or not as such engines do."""


class DeadlineExceeded(ServeError):
    """A request timed out before it had any tokens."""


class Superseded(ServeError):
    """A newer request of the same editor session replaced this request."""


def did_you_mean(
    name: str,
    known: Iterable[str],
    otherwise: str = "",
    *,
    stands_for: Mapping[str, str] | None = None,
    most: int = 3,
) -> str:
    """Return a hint with the known names most similar to `name`; if there are none, `otherwise` or all known names.

    Args:
        name: what was given.
        known: all names.
        otherwise: hint if no name is similar.
        stands_for: what names stand for, if that is not the name; one name is suggested for each thing.
        most: maximum number of suggestions.

    >>> did_you_mean("q4_o", ["q4_0", "q8_0"])
    'did you mean q4_0?'
    >>> did_you_mean("lama.vim", ["llama-vim", "llama.vim"], stands_for={"llama.vim": "llama-vim"})
    'did you mean llama.vim?'
    """
    folded = {k.lower(): k for k in sorted(known)}
    near: dict[str, str] = {}
    for match in difflib.get_close_matches(name.lower(), folded, n=len(folded) or 1, cutoff=0.6):
        near.setdefault((stands_for or {}).get(folded[match], folded[match]), folded[match])
    if near:
        return f"did you mean {' or '.join(list(near.values())[:most])}?"
    return otherwise or f"available: {', '.join(folded.values())}"
