"""Another GGUF file as a `Reference`: to see what a quantized one lost, without its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from turbopilot.base.file_digest import file_digests
from turbopilot.base.progress import Progress, silent
from turbopilot.verify import hyperparameters
from turbopilot.verify.gguf_candidate import GgufCandidate
from turbopilot.verify.source import Change, LogitsSource, Window


class GgufReference(GgufCandidate):
    """See `GgufCandidate`. It cannot be changed, so quantized candidates have no limits beside it."""

    def __init__(self, path: Path, *, progress: Progress = silent) -> None:
        super().__init__(path)
        self._continued: dict[tuple[tuple[int, ...], int], list[int]] = {}
        files = sorted({t.path for t in self.header.tensors}) or [path]
        self.files: Mapping[str, str] = file_digests(files, progress=progress)
        self.hyperparameters = hyperparameters.of_gguf(self.header.metadata)

    def prepare(self, windows: Sequence[Window], progress: Progress) -> None:
        """See `Reference`. Nothing: llama.cpp is as quick when it is asked."""

    def changed(self, change: Change) -> LogitsSource | None:
        """See `Reference`."""
        return None

    def remembered(self, question: str) -> Mapping[str, object] | None:
        """See `Reference`."""
        return None

    def remember(self, question: str, answer: Mapping[str, object]) -> None:
        """See `Reference`."""

    def continued(self, ids: Sequence[int], n: int) -> list[int] | None:
        """See `Reference`."""
        if (tuple(ids), n) not in self._continued:
            self._continued[tuple(ids), n] = self.greedy(ids, n)
        return self._continued[tuple(ids), n]
