"""Helpers for tests of verify: a family's tiny checkpoint, its GGUF files, and reports on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters import convert
from quantize import quantize
from tests.support.gguf_faults import Edit, faulty
from tests.support.tiny import tiny_checkpoint
from turbopilot.app.verification import target_of
from turbopilot.verify import VerifyOptions, VerifyReport, compare, verify
from turbopilot.verify.gguf_candidate import GgufCandidate
from turbopilot.verify.source import Logits, LogitsSource, Window
from turbopilot.verify.torch_reference import TorchReference
from turbopilot.verify.verification import explained


def logits_of(source: LogitsSource, ids: Sequence[int]) -> Logits:
    """Return the logits (T, V) after each of the ids."""
    return np.concatenate(list(source.logits(Window("code", "", tuple(ids), range(len(ids))))))


def verdict(path: Path, checkpoint: Path, prompts: Sequence[str]) -> VerifyReport:
    return next(verify([path], checkpoint, VerifyOptions(prompts=prompts)))


class Lab:
    """One checkpoint for several verifications; its reference caches the computed logits."""

    def __init__(self, family: str, folder: Path, **overrides: Any) -> None:
        self.folder = folder
        self.checkpoint = tiny_checkpoint(family, folder / "checkpoint", **overrides)
        self.reference = TorchReference(self.checkpoint)

    def gguf(self, type_name: str) -> Path:
        path = self.folder / f"{type_name}.gguf"
        if not path.exists():
            if type_name in ("f32", "f16"):
                convert(self.checkpoint, path, dtype=type_name)
            else:
                quantize(self.gguf("f32"), path, type_name.upper())
        return path

    def judge(
        self,
        path: Path,
        texts: Mapping[str, str] | None = None,
        *,
        positions: int = 1000,
        tensors: bool = True,
    ) -> VerifyReport:
        options = VerifyOptions(texts=texts or {}, positions=positions, tensors=tensors)
        with GgufCandidate(path) as candidate:
            report = compare(self.reference, candidate, candidate.header, options)
            return explained(report, candidate.header, options, target_of(self.checkpoint))

    def judge_faulty(
        self, type_name: str, edit: Edit, texts: Mapping[str, str] | None = None
    ) -> VerifyReport:
        path = faulty(self.gguf(type_name), self.folder / "faulty.gguf", edit)
        return self.judge(path, texts)
