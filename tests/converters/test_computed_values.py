"""Values that a family declares as computed: exact, in every type, and shown in the plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from converters import convert, dry_run
from converters.prepare import expected
from tests.converters.test_converters import gguf_array
from tests.support.refact import tiny_refact
from tests.support.tiny import tiny_checkpoint
from turbopilot.base.errors import TensorMismatch

NORMS = {
    "blk.1.attn_norm.weight": "model.layers.1.input_layernorm.weight",
    "blk.2.ffn_norm.weight": "model.layers.2.post_attention_layernorm.weight",
    "output_norm.weight": "model.norm.weight",
}


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", ["f32", "f16", "auto"])
def test_norms_of_gemma_are_written_plus_one(
    tmp_path: Path, stored: torch.dtype, dtype: str
) -> None:
    folder = tiny_checkpoint("gemma", tmp_path / "gemma")
    file = folder / "model.safetensors"
    state = {name: t.to(stored) for name, t in load_file(file).items()}
    save_file(state, file, {"format": "pt"})
    convert(folder, tmp_path / "out.gguf", dtype=dtype)
    for ours, theirs in NORMS.items():
        wanted = (1.0 + state[theirs].float()).numpy()
        np.testing.assert_array_equal(gguf_array(tmp_path / "out.gguf", ours), wanted, ours)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_queries_of_refact_are_multiplied_exactly(tmp_path: Path, dtype: str) -> None:
    q = tiny_refact(tmp_path / "refact").transformer["h"][1].attn.q.weight.detach()  # type: ignore[index]
    convert(tmp_path / "refact", tmp_path / "out.gguf", dtype=dtype)
    found = gguf_array(tmp_path / "out.gguf", "blk.1.attn_qkv.weight")[:256]
    wanted = q * 8
    np.testing.assert_array_equal(found, (wanted if dtype == "f32" else wanted.half()).numpy())


def test_factor_that_exceeds_the_range_of_f16_is_rejected(tmp_path: Path) -> None:
    tiny_refact(tmp_path / "refact")
    file = tmp_path / "refact" / "model.safetensors"
    state = load_file(file)
    state["transformer.h.1.attn.q.weight"][2, 3] = 9000
    save_file(state, file, {"format": "pt"})
    with pytest.raises(TensorMismatch, match=r"h\.1\.attn\.q\.weight.*7\.2e\+04"):
        convert(tmp_path / "refact", tmp_path / "out.gguf", dtype="f16")
    assert not (tmp_path / "out.gguf").exists()


def test_plan_and_expected_tensors_state_the_computation(tmp_path: Path) -> None:
    folder = tiny_checkpoint("gemma", tmp_path / "gemma")
    assert "output_norm.weight  F32 [256] 1.0 kB ← model.norm.weight + 1\n" in dry_run(folder)
    with expected(folder) as model:
        found = {t.name: t.source for t in model.tensors}
    assert found["output_norm.weight"] == "model.norm.weight + 1"
    assert found["token_embd.weight"] == "model.embed_tokens.weight"
