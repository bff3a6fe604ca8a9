"""Tests of the diagnosis: each deliberate fault fails and its cause is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch

from converters import ConversionOptions, convert
from tests.support import checkpoint_faults, gguf_faults
from tests.support.checkpoint_faults import Fault, faulty_checkpoint
from tests.support.gguf_faults import Edit, faulty, zeroed
from tests.support.verify_lab import Lab
from turbopilot.base.errors import CorruptModel
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.verify import VerifyReport
from turbopilot.verify.diagnosis import diagnose
from turbopilot.verify.texts import token_battery

# Fault of the file → how to make it, and the expected cause.
FILE_FAULTS: Final[dict[str, tuple[Edit, str]]] = {
    "rotary permutation skipped": (gguf_faults.interleaved_rotary, "rotary_skipped"),
    "rotary permutation skipped in one tensor": (gguf_faults.rotary_in_one_layer, "rotary_skipped"),
    "rotary permutation applied twice": (gguf_faults.rotary_twice, "rotary_twice"),
    "q and k swapped": (gguf_faults.swapped_q_and_k, "swapped"),
    "a head's rows rolled by one": (gguf_faults.rolled_head, "head_rows"),
    "a bias dropped": (zeroed("blk.0.ffn_up.bias"), "dropped"),
    "embedding shifted by one": (gguf_faults.shifted_embedding, "shifted_rows"),
    "two merges swapped": (gguf_faults.swapped_merges, "merges"),
    "a token of spaces lost": (gguf_faults.lost_spaces, "vocabulary"),
}
# Fault of the checkpoint that the file is converted from → how to make it, and the expected cause.
CHECKPOINT_FAULTS: Final[dict[str, tuple[Fault, str]]] = {
    "a layer left out": (checkpoint_faults.layer_left_out, "layer_left_out"),
    "a layer doubled": (checkpoint_faults.layer_doubled, "layer_doubled"),
    "epsilon wrong by ten": (checkpoint_faults.epsilon_wrong, "epsilon"),
    "a matrix transposed": (checkpoint_faults.transposed, "transposed"),
    "made of a Q4_0 file": (checkpoint_faults.of_q4_0, "requantized"),
}


@pytest.fixture(scope="module")
def codegen(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab("codegen", tmp_path_factory.mktemp("codegen"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab("gemma", tmp_path_factory.mktemp("gemma"))


def causes(report: VerifyReport) -> list[str]:
    return [f.cause for f in report.findings]


def judge_made_of(lab: Lab, fault: Fault, folder: Path, dtype: str = "f32") -> VerifyReport:
    """Return the report on a file converted from a faulty copy of the lab's checkpoint."""
    checkpoint = faulty_checkpoint(lab.checkpoint, folder / fault.__name__, fault)
    path = folder / "faulty.gguf"
    convert(checkpoint, path, ConversionOptions(force=True), dtype=dtype)
    return lab.judge(path)


@pytest.mark.parametrize("type_name", ["f32", "q8_0", "q4_0"])
@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_cause_of_a_file_fault_is_named(codegen: Lab, fault: str, type_name: str) -> None:
    edit, cause = FILE_FAULTS[fault]
    texts = token_battery() if cause in ("merges", "vocabulary") else None
    report = codegen.judge_faulty(type_name, edit, texts)
    assert not report.passed
    assert causes(report)[0] == cause, report.findings


@pytest.mark.parametrize("type_name", ["f32", "q4_0"])
def test_norm_without_the_offset_of_gemma_is_named(gemma: Lab, type_name: str) -> None:
    report = gemma.judge_faulty(type_name, gguf_faults.without_offset)
    assert not report.passed
    assert causes(report)[0] == "offset", report.findings
    assert "off by -1" in report.findings[0].message


@pytest.mark.parametrize("fault", CHECKPOINT_FAULTS)
def test_cause_of_a_checkpoint_fault_is_named(codegen: Lab, fault: str, tmp_path: Path) -> None:
    edit, cause = CHECKPOINT_FAULTS[fault]
    report = judge_made_of(codegen, edit, tmp_path, "f16")
    assert not report.passed
    assert causes(report)[0] == cause, report.findings


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (checkpoint_faults.epsilon_wrong, "epsilon"),
        (checkpoint_faults.rope_base_wrong, "rope_base"),
    ],
)
def test_cause_of_a_wrong_config_value_is_named(
    llama: Lab, fault: Fault, cause: str, tmp_path: Path
) -> None:
    report = judge_made_of(llama, fault, tmp_path)
    assert not report.passed
    assert causes(report)[0] == cause, report.findings


def test_missing_or_duplicated_layer_is_named(codegen: Lab, tmp_path: Path) -> None:
    for fault in (checkpoint_faults.layer_left_out, checkpoint_faults.layer_doubled):
        assert "layer 1" in judge_made_of(codegen, fault, tmp_path).findings[0].message


def test_overflowed_tensor_is_named(codegen: Lab, tmp_path: Path) -> None:
    def large(state: checkpoint_faults.State, config: dict[str, object]) -> None:
        name = next(n for n in state if n.endswith("fc_in.weight"))
        state[name][3, 5] = 1e6

    with pytest.raises(CorruptModel, match=r"blk\.\d+\.ffn_up\.weight"):
        judge_made_of(codegen, large, tmp_path, "f16")


FIGURES: Final[dict[str, tuple[Edit, str]]] = {
    "rotary permutation skipped": (gguf_faults.interleaved_rotary, "attention"),
    "q and k swapped": (gguf_faults.swapped_q_and_k, "attention"),
    "embedding shifted by one": (gguf_faults.shifted_embedding, "everywhere"),
    "a bias dropped": (zeroed("blk.0.ffn_up.bias"), "everywhere"),
}


@pytest.mark.parametrize("fault", FIGURES)
def test_logits_alone_show_the_cause(codegen: Lab, fault: str) -> None:
    """Tensors are not compared if the checkpoint cannot be converted."""
    edit, cause = FIGURES[fault]
    report = codegen.judge_faulty("f32", edit)
    alone = diagnose(report, {}, {}, ())
    assert [f.cause for f in alone] == [cause], alone


def test_wrong_rope_base_is_found_from_logits_alone(llama: Lab, tmp_path: Path) -> None:
    def drifting(state: checkpoint_faults.State, config: dict[str, object]) -> None:
        config["rope_theta"] = 10100.0
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10100.0}

    report = judge_made_of(llama, drifting, tmp_path)
    logits = [f for f in report.failures if f.check in ("nmse", "mean_kl")]
    assert logits, report.metrics
    alone = diagnose(replace(report, failures=tuple(logits)), {}, {}, ())
    assert [f.cause for f in alone] == ["rotation"], alone


def test_tensors_are_ranked_by_error(codegen: Lab) -> None:
    report = codegen.judge(codegen.gguf("q4_k_m"))
    assert report.passed, report.failures
    assert report.tensors is not None
    shares = [t.relative / t.allowed for t in report.tensors]
    assert shares == sorted(shares, reverse=True)
    assert {t.type_name for t in report.tensors} >= {"F32", "Q4_K", "Q6_K"}
    assert max(t.relative for t in report.tensors if t.type_name == "F32") == 0.0


def test_tensor_comparison_finds_error_too_small_for_logits(codegen: Lab) -> None:
    def nudged(path: Path, header: GgufHeader) -> None:
        view = gguf_faults.rows(path, gguf_faults.tensor(header, "output.weight")).view(np.float32)
        view[-1] *= 1.0001  # a row that the tokenizer does not use

    path = faulty(codegen.gguf("f32"), codegen.folder / "nudged.gguf", nudged)
    assert codegen.judge(path, tensors=False).passed
    report = codegen.judge(path)
    assert [f.check for f in report.failures] == ["tensors"]
    assert "output.weight" in report.failures[0].message


def test_weights_of_another_revision_are_recognized(codegen: Lab, tmp_path: Path) -> None:
    def other(state: checkpoint_faults.State, config: dict[str, object]) -> None:
        generator = torch.Generator().manual_seed(9)
        for name, tensor in state.items():
            if tensor.ndim == 2:
                state[name] = torch.randn(tensor.shape, generator=generator) * tensor.std()

    assert causes(judge_made_of(codegen, other, tmp_path))[0] == "other_weights"
