"""Fixtures with certified model files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converters import ConversionOptions, convert
from turbopilot.formats.gguf.certificate import Certificate, digests, sign
from turbopilot.formats.gguf.file import read_part

PREFIX = "turbopilot.verified."
PLAIN = Certificate(
    passed=True, reference="owner/name", reference_files=("0" * 64 + "  model.safetensors",), type_name="Q4_0",
    positions=4012, max_context=1024, mean_kl=0.00123, max_kl=0.5, top1=0.987, nmse=1e-4,
    reference_perplexity=12.34, candidate_perplexity=12.56, limits="NMSE ≤ 1.2e-3",
    versions=("torch 2.9.0", "llama-cpp-python 0.3.36", "numpy 2.0"), date="2026-01-02T03:04:05+00:00",
    tensors_sha256="0" * 64, metadata_sha256="0" * 64,
)  # fmt: skip


def certificate_of(path: Path, **changes: Any) -> Certificate:
    found = digests(path)
    return replace(PLAIN, tensors_sha256=found.tensors, metadata_sha256=found.metadata, **changes)


@pytest.fixture
def unsigned(demo_q4_0: Path, tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return Path(shutil.copy(demo_q4_0, tmp_path / "models" / "m.gguf"))


@pytest.fixture
def signed(unsigned: Path) -> Path:
    sign(unsigned, certificate_of(unsigned))
    return unsigned


@pytest.fixture
def split_model(demo_checkpoint: Path, tmp_path: Path) -> Path:
    return convert(
        demo_checkpoint, tmp_path / "split.gguf", ConversionOptions(split_max_size=4_000_000)
    ).path


def tensor_data(path: Path) -> dict[str, bytes]:
    raw = path.read_bytes()
    return {t.name: raw[t.offset : t.offset + t.n_bytes] for t in read_part(path)[0].tensors}


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))
