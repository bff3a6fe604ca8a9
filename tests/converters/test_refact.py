"""Refact, for which transformers has no class: its reference, its file, and the graph that computes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from converters import convert, dry_run
from quantize import quantize
from tests.support.refact import Refact, tiny_refact
from tests.support.verify_lab import logits_of, verdict
from turbopilot.base.errors import UnsupportedModel
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.verify.torch_reference import TorchReference

PROMPTS = ["def f(x):\n    return x + 12345\n" * 8, "class A:\n\tpass\n" * 10]
IDS = tuple(range(1, 90))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Refact]:
    folder = tmp_path_factory.mktemp("refact") / "checkpoint"
    return folder, tiny_refact(folder)


@pytest.fixture(scope="module")
def f32(made: tuple[Path, Refact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "f32.gguf"
    convert(made[0], path, dtype="f32")
    return path


@pytest.mark.parametrize("streamed", [False, True])
def test_reference_computes_the_published_formulas(
    made: tuple[Path, Refact], streamed: bool
) -> None:
    folder, model = made
    reference = TorchReference(folder, streamed=streamed)
    with torch.inference_mode():
        plain = model(torch.tensor(IDS)).numpy()
    np.testing.assert_allclose(logits_of(reference, IDS), plain, atol=2e-4)


def test_greedy_continuation_with_a_cache_is_that_of_whole_prompts(
    made: tuple[Path, Refact],
) -> None:
    folder, model = made
    ids = list(IDS[:20])
    with torch.inference_mode():
        for _ in range(8):
            ids.append(int(model(torch.tensor(ids))[-1].argmax()))
    assert TorchReference(folder, streamed=False).continued(IDS[:20], 8) == ids[20:]


def test_f32_file_has_the_logits_of_pytorch(made: tuple[Path, Refact], f32: Path) -> None:
    report = verdict(f32, made[0], PROMPTS)
    assert report.passed, report.failures
    assert report.metrics is not None
    assert report.metrics.nmse <= 1e-6
    assert report.metrics.clear_top1 == 1.0
    assert read_gguf(f32).architecture == "jais"


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0"])
def test_quantized_file_passes(
    made: tuple[Path, Refact], f32: Path, tmp_path: Path, type_name: str
) -> None:
    quantize(f32, tmp_path / "q.gguf", type_name)
    report = verdict(tmp_path / "q.gguf", made[0], PROMPTS)
    assert report.passed, report.failures


def test_head_size_without_an_exact_root_is_refused(tmp_path: Path) -> None:
    tiny_refact(tmp_path / "x", n_head=8)
    with pytest.raises(UnsupportedModel, match="head size is 32"):
        convert(tmp_path / "x", tmp_path / "out.gguf")


def test_plan_states_the_factor_of_the_queries(made: tuple[Path, Refact]) -> None:
    assert "attn.q.weight × 8 + transformer.h.0.attn.kv.weight" in dry_run(made[0])
