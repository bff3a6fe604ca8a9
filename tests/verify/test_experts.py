"""Verification of mixtures of experts and of latent attention: faults in stacks, routers and their hyperparameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from quantize import QuantizeOptions, quantize
from quantize.imatrix import read_imatrix
from tests.support.gguf_faults import Edit, tensor, zeroed
from tests.support.imatrix_lab import run
from tests.support.tiny import tiny_checkpoint
from tests.support.verify_lab import Lab
from turbopilot.formats.gguf.edit import set_metadata
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.verify import hyperparameters
from turbopilot.verify.source import Change
from turbopilot.verify.stored_parameters import stored
from turbopilot.verify.torch_model import TorchDevice, TorchModel
from turbopilot.verify.torch_reference import TorchReference


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab("qwen3moe", tmp_path_factory.mktemp("qwen3moe"))


@pytest.fixture(scope="module")
def latent(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab("deepseekv2", tmp_path_factory.mktemp("deepseekv2"))


def stack(path: Path, header: GgufHeader, name: str) -> Any:
    """Return a writable view (matrices, bytes of a matrix) of a stack."""
    t = tensor(header, name)
    return np.memmap(path, np.uint8, "r+", t.offset, (t.shape[2], t.n_bytes // t.shape[2]))


def exchanged_experts(path: Path, header: GgufHeader) -> None:
    """Exchange two experts of one layer."""
    view = stack(path, header, "blk.1.ffn_up_exps.weight")
    view[[2, 5]] = view[[5, 2]]


def shifted_experts(path: Path, header: GgufHeader) -> None:
    """Give each expert the gate of its neighbour."""
    view = stack(path, header, "blk.0.ffn_gate_exps.weight")
    view[:] = np.roll(view, 1, axis=0)


def gates_for_ups(path: Path, header: GgufHeader) -> None:
    """Exchange gates and ups, as from a fused tensor whose halves are read in the wrong order."""
    gate, up = (stack(path, header, f"blk.2.ffn_{part}_exps.weight") for part in ("gate", "up"))
    gate[:], up[:] = up.copy(), gate.copy()


def interleaved_gates(path: Path, header: GgufHeader) -> None:
    """Write the rows of each expert's gate in the order of pairs."""
    view = stack(path, header, "blk.1.ffn_gate_exps.weight")
    pairs = view.reshape(len(view), 2, 128, -1).swapaxes(1, 2)
    view[:] = pairs.copy().reshape(view.shape)


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (exchanged_experts, "moved_rows"),
        (shifted_experts, "shifted_rows"),
        (gates_for_ups, "swapped"),
        (interleaved_gates, "other_weights"),
        (zeroed("blk.1.ffn_gate_inp.weight"), "dropped"),
        (zeroed("blk.0.attn_q_norm.weight"), "dropped"),
    ],
)
def test_cause_of_a_fault_in_a_mixture_is_named(moe: Lab, edit: Edit, cause: str) -> None:
    report = moe.judge_faulty("f32", edit)
    assert not report.passed
    assert cause in [f.cause for f in report.findings], report.findings


@pytest.mark.parametrize("type_name", ["q8_0", "q4_k_m"])
def test_exchanged_experts_fail_in_quantized_files(moe: Lab, type_name: str) -> None:
    report = moe.judge_faulty(type_name, exchanged_experts)
    assert not report.passed
    assert "moved_rows" in [f.cause for f in report.findings], report.findings


def untransposed_keys(path: Path, header: GgufHeader) -> None:
    """Write the keys of each head as in the checkpoint, (N, C), instead of transposed."""
    t = tensor(header, "blk.1.attn_k_b.weight")
    n, c, heads = t.shape
    view = np.memmap(path, np.float32, "r+", t.offset, (heads, c, n))
    view[:] = view.swapaxes(1, 2).reshape(heads, c, n).copy()


def neighbours_keys(path: Path, header: GgufHeader) -> None:
    """Give each head the keys of its neighbour."""
    view = stack(path, header, "blk.1.attn_k_b.weight")
    view[:] = np.roll(view, 1, axis=0)


@pytest.mark.parametrize(
    ("edit", "cause"),
    [(untransposed_keys, "other_weights"), (neighbours_keys, "shifted_rows")],
)
def test_cause_of_a_fault_in_latent_attention_is_named(latent: Lab, edit: Edit, cause: str) -> None:
    report = latent.judge_faulty("f32", edit)
    assert not report.passed
    assert cause in [f.cause for f in report.findings], report.findings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expert_used_count", 3),
        ("expert_weights_scale", 2.0),
        ("rope.scaling.factor", 4.0),
        ("rope.scaling.original_context_length", 128),
    ],
)
def test_wrong_hyperparameter_is_named(latent: Lab, key: str, value: float) -> None:
    header = read_gguf(latent.gguf("f32"))
    metadata = {**header.metadata, f"deepseek2.{key}": value}
    found = hyperparameters.differences(
        latent.reference.hyperparameters, hyperparameters.of_gguf(metadata)
    )
    assert [f.check for f in found] == [f"hyperparameter {key}"]
    right = hyperparameters.of_gguf(header.metadata)
    assert hyperparameters.differences(latent.reference.hyperparameters, right) == []


def test_lost_attention_factor_of_yarn_fails(latent: Lab, tmp_path: Path) -> None:
    path = tmp_path / "lost.gguf"
    path.write_bytes(latent.gguf("f32").read_bytes())
    set_metadata(path, remove="deepseek2.rope.scaling.yarn_log_multiplier")
    report = latent.judge(path)
    assert {"nmse", "mean_kl"} & {f.check for f in report.failures}


def test_routers_get_no_noise_and_experts_do(moe: Lab) -> None:
    config: dict[str, Any] = {}
    plain, noisy = (
        TorchModel(moe.checkpoint, config, TorchDevice(), Change(noise=n), streamed=False)
        for n in (0.0, 1e-2)
    )
    for model in (plain, noisy):
        model.hidden([range(20)])
    left, right = (dict(m._model.named_parameters()) for m in (plain, noisy))
    for name in ("model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.down_proj"):
        changed = torch.square(right[name] - left[name]).sum() / torch.square(left[name]).sum()
        expected = 0.0 if name.endswith("gate.weight") else 1e-2
        assert float(changed) == pytest.approx(expected, rel=0.05)


def test_missing_expert_is_not_replaced() -> None:
    state = {
        f"model.layers.0.mlp.experts.{e}.{part}_proj.weight": torch.ones(4, 8)
        for e in range(3)
        for part in ("gate", "up")
    }
    name = "model.layers.0.mlp.experts.gate_up_proj"
    found = stored("model", (name,), 3, state)
    assert found is not None
    assert found.shape == tuple(found.read().shape) == (3, 8, 8)
    del state["model.layers.0.mlp.experts.1.up_proj.weight"]
    assert stored("model", (name,), 3, state) is None


def test_importance_matrix_weighs_each_expert(moe: Lab, tmp_path: Path) -> None:
    matrix, path = tmp_path / "imatrix.gguf", tmp_path / "iq2.gguf"
    run(moe.gguf("f32"), matrix)
    entry = read_imatrix(matrix).entries["blk.1.ffn_down_exps.weight"]
    assert entry.sums.shape == (8, 256)
    assert (
        entry.counts.sum() == 2 * read_imatrix(matrix).entries["blk.1.attn_q.weight"].counts.sum()
    )
    report = quantize(moe.gguf("f32"), path, "IQ2_XS", QuantizeOptions(imatrix=matrix))
    types = {t.name: t.type_name for t in read_gguf(path).tensors}
    assert types["blk.1.ffn_up_exps.weight"] == "IQ2_XS"
    assert types["blk.1.ffn_gate_inp.weight"] == "F32"
    assert report.bits_after < 4


def test_rope_base_that_config_json_lacks_is_that_of_the_class(tmp_path: Path) -> None:
    lab = Lab("codegen", tmp_path, n_layer=1)  # built into the code of CodeGen
    assert lab.reference.hyperparameters["rope.freq_base"] == 10000.0
    moe = tiny_checkpoint("qwen3moe", tmp_path / "moe", num_hidden_layers=1)
    config = json.loads((moe / "config.json").read_text())
    for key in ("rope_theta", "rope_parameters", "rope_scaling"):
        config.pop(key, None)
    (moe / "config.json").write_text(json.dumps(config))
    base = TorchReference(moe).hyperparameters["rope.freq_base"]
    assert base == transformers.Qwen3MoeConfig().rope_parameters["rope_theta"]
