"""GGUF file as the reference, to measure quantization loss without the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from turbopilot.base.file_digest import file_digests
from turbopilot.base.progress import Progress, silent
from turbopilot.verify import hyperparameters, tokenizer_files
from turbopilot.verify.gguf_candidate import GgufCandidate
from turbopilot.verify.source import Change, Notes, Window


class GgufReference(GgufCandidate):
    """Reference model that llama.cpp runs from a GGUF file.

    No noise can be added to its weights, so limits for quantized candidates cannot be computed.
    """

    def __init__(self, path: Path, *, progress: Progress = silent) -> None:
        super().__init__(path)
        files = sorted({t.path for t in self.header.tensors}) or [path]
        self.files: Mapping[str, str] = file_digests(files, progress=progress)
        self.hyperparameters = hyperparameters.of_gguf(self.header.metadata)
        self.tokenizer_files = tokenizer_files.of_gguf(self.header.metadata)
        self.notes: Notes = {}

    def prepare(self, windows: Sequence[Window], progress: Progress) -> None:
        """Do nothing: llama.cpp computes windows one at a time."""

    def changed(self, change: Change) -> None:
        """Return None: the weights of a GGUF cannot be changed."""

    def continued(self, ids: Sequence[int], n: int) -> list[int] | None:
        """Return n tokens of greedy continuation; results are cached."""
        question = f"continued {n} {list(ids)}"
        if (known := self.notes.get(question)) is None:
            known = {"ids": self.greedy(ids, n)}
            self.notes[question] = known
        found: list[int] = known["ids"]
        return found
